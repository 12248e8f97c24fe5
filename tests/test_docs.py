"""The documentation says what the code does."""

import doctest
import re
from pathlib import Path

import pytest
from programs import load

import ats

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = sorted(page.name for page in DOCS.glob("*.md"))


update_help = load("docs/update_help.py")


@pytest.mark.parametrize("script", [*update_help.SCRIPTS, update_help.COMMAND])
def test_help_texts_are_those_of_the_scripts(script: str) -> None:
    kept = update_help.help_file(script).read_text(encoding="utf-8")
    assert kept == update_help.help_text(script), "run python docs/update_help.py"


def test_every_script_with_a_help_text_is_on_the_examples_page() -> None:
    page = (DOCS / "examples.md").read_text(encoding="utf-8")
    for script in update_help.SCRIPTS:
        assert f"help/{update_help.help_file(script).name}" in page
        assert f"python scripts/{script} " in page


def test_options_in_the_examples_exist() -> None:
    page = (DOCS / "examples.md").read_text(encoding="utf-8").replace("\\\n", " ")
    for script in update_help.SCRIPTS:
        known = set(re.findall(r"--\w+", update_help.help_file(script).read_text(encoding="utf-8")))
        commands = re.findall(rf"^python scripts/{re.escape(script)} .*$", page, re.MULTILINE)
        assert commands
        for command in commands:
            unknown = set(re.findall(r"--\w+", command)) - known
            assert not unknown, f"{command}: {unknown}"


@pytest.mark.parametrize("name", ats.__all__)
def test_every_public_name_is_on_the_api_page(name: str) -> None:
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    assert re.search(rf"^\.\. auto\w+:: ats\.{name}$", page, re.MULTILINE)


def test_every_design_is_on_the_api_and_theory_pages() -> None:
    for page in ("api.md", "theory.md"):
        text = (DOCS / page).read_text(encoding="utf-8").replace('"', "")
        for name in ats.sampling.DESIGNS:
            assert f"`{name}`" in text, f"{name} on {page}"


@pytest.mark.parametrize("page", PAGES)
def test_examples_run(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    source = "\n".join(block for block in blocks if ">>>" in block)
    test = doctest.DocTestParser().get_doctest(source, {}, page, str(DOCS / page), 0)
    result = doctest.DocTestRunner().run(test)
    assert result.failed == 0
    if page in ("index.md", "architecture.md"):
        assert result.attempted > 0
