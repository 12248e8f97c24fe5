"""Every setting of a training: from the command line, or from a YAML file."""

import argparse
from pathlib import Path
from typing import Any

from ats.training.arguments import (
    RECIPES,
    add_training_arguments,
    folder,
    not_negative_int,
    parse_with_recipe,
    patch_extents,
    positive_float,
    positive_int,
)
from ats.training.tasks import TASKS

# Not in the file: they say what is done with it.
_NOT_KEPT = ("help", "config", "resume")


def share(text: str) -> float:
    """A number between 0 and 1, both excluded."""
    value = positive_float(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(f"{text} must lie between 0 and 1")
    return value


def add_table_arguments(add: Any) -> None:
    """Which images and labels."""
    add("--images", default=None, help="folder of the images; without --labels with one per class")
    add("--labels", default=None, help="CSV table with a header: a path and a label for each image")
    add("--path_column", default="path", help="column of the paths, relative to --images")
    add("--label_column", nargs="+", default=["label"], help="column of the label; several numbers")
    add("--label_separator", default=None, help="between the classes of an image, such as ';'")
    add("--group_column", default=None, help="images of one group, as a patient, stay together")
    add("--split_column", default=None, help="column with train or test; without it a random share")
    add_file_arguments(add)


def add_file_arguments(add: Any) -> None:
    """What to do with files."""
    add("--strict", action="store_true", help="stop at an image that cannot be read")
    add("--cache", default=None, help="folder for decoded images, or the user's cache")
    add("--cache_gib", type=positive_float, default=16, help="bound on the decoded images, GiB")


def add_reading_arguments(add: Any) -> None:
    """How images are divided, read and understood."""
    add("--test_share", type=share, default=0.2, help="share of the images that are tested on")
    add("--task", choices=tuple(TASKS), default="classes", help="one class, several, or numbers")
    add("--channels", type=positive_int, default=3, help="channels that every image is brought to")
    add("--axes", default=None, help="axes of arrays in files where unclear, such as YXC")
    add("--level", type=not_negative_int, default=0, help="level of the patches, 0 the finest")
    add("--mpp", type=positive_float, default=None, help="microns per pixel, in place of the level")
    add("--small_side", type=positive_int, default=256, help="longest side of small views, pixels")


def add_network_arguments(add: Any) -> None:
    """What is trained."""
    add("--attention", default="small", help="attention network: small, or package.module:function")
    add("--feature", default="small", help="feature network: small, or package.module:function")
    add("--patch_size", type=patch_extents, default="64x64", help="HEIGHTxWIDTH of a patch")
    add("--n_patches", type=positive_int, default=10, help="patches of an image")
    add("--batch_size", type=positive_int, default=8, help="images of a batch")
    add(
        "--class_weights",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="make up for classes of different sizes",
    )
    add("--read_ahead", action="store_true", help="read patches one step ahead, for slow storage")


def training_parser(**options: Any) -> argparse.ArgumentParser:
    """The parser of ``ats train``, which knows every setting."""
    parser = argparse.ArgumentParser(
        formatter_class=argparse.ArgumentDefaultsHelpFormatter, **options
    )
    parser.add_argument("--config", type=Path, default=None, help="YAML file, see ats init")
    parser.add_argument("--out", dest="output", type=folder, default=None, help="folder of the run")
    add_table_arguments(parser.add_argument)
    add_reading_arguments(parser.add_argument)
    add_network_arguments(parser.add_argument)
    add_training_arguments(parser)
    parser.set_defaults(epochs=30)
    return parser


def settings_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The settings that a file may hold."""
    return [action for action in parser._actions if action.dest not in _NOT_KEPT]


def name_of(action: argparse.Action) -> str:
    """A setting's name in a file: that of its option."""
    return action.option_strings[0].removeprefix("--")


def read_config(path: Path, parser: argparse.ArgumentParser) -> list[str]:
    """A YAML file of settings as arguments of the command line.

    Raises:
        ValueError: the file cannot be read, or an unknown setting is in it.
    """
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"config={path} cannot be read ({error}); see ats init") from error
    if not isinstance(values, dict):
        raise ValueError(f"config={path} must hold lines such as 'epochs: 30'; see ats init")
    return tokens_of(values, parser, f"config={path}")


def tokens_of(values: dict[Any, Any], parser: argparse.ArgumentParser, origin: str) -> list[str]:
    """Settings by their names as arguments of the command line.

    Raises:
        ValueError: one of them is unknown.
    """
    actions = {name_of(action): action for action in settings_of(parser)}
    unknown = sorted(str(name) for name in values if name not in actions)
    if unknown:
        raise ValueError(
            f"{origin} holds the unknown settings {', '.join(unknown)}; ats init writes a "
            "file with all that there are"
        )
    return [part for name, value in values.items() for part in _tokens(actions[name], value)]


def _tokens(action: argparse.Action, value: Any) -> list[str]:
    """A setting as on the command line."""
    option = action.option_strings[0]
    if value is None:
        return []
    if action.nargs == 0 and isinstance(value, bool):
        if value:
            return [option]
        negative = [name for name in action.option_strings if name.startswith("--no-")]
        return negative[:1]
    if isinstance(value, list | tuple) and not action.nargs:
        if action.type is not patch_extents or len(value) != 2:
            raise ValueError(f"{name_of(action)}={value} must be a single value")
        value = f"{value[0]}x{value[1]}"
    values = value if isinstance(value, list | tuple) else [value]
    return [option, *map(str, values)] if action.nargs else [f"{option}={values[0]}"]


def parse_settings(arguments: list[str], parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Settings of a file, over which those of the command line hold."""
    given = parser.parse_args(arguments)
    if given.config is not None:
        try:
            tokens = read_config(given.config, parser)
        except ValueError as error:
            parser.error(str(error))
        arguments = [*tokens, *arguments]
    return parse_with_recipe(parser, arguments)


def template(parser: argparse.ArgumentParser) -> str:
    """A YAML file with every setting at its default, and what it means."""
    import yaml

    lines = ["# Settings of a training; those that are not here have their defaults.", ""]
    changed = {name for recipe in RECIPES.values() for name in recipe}
    for action in settings_of(parser):
        default = action.default
        if isinstance(default, tuple):
            default = "x".join(map(str, default))
        value = yaml.safe_dump(default, default_flow_style=True).removesuffix("...\n").strip()
        choices = f" ({', '.join(map(str, action.choices))})" if action.choices else ""
        # What is written down would hold against a recipe.
        mark = "# " if name_of(action) in changed else ""
        lines += [f"# {action.help}{choices}", f"{mark}{name_of(action)}: {value}", ""]
    return "\n".join(lines)
