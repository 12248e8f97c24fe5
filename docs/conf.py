"""Sphinx configuration; ``sphinx-build -W --keep-going -b html docs docs/_build/html`` builds."""

import ats

project = "attention-sampling"
author = "The attention-sampling developers"
project_copyright = f"2026, {author}"
version = release = ats.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx.ext.mathjax",
]
exclude_patterns = ["_build", "help", "results"]

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3

napoleon_google_docstring = True
napoleon_numpy_docstring = False
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}

html_theme = "furo"
html_title = f"attention-sampling {version}"
