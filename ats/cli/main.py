"""The command line of ``ats``."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ats.cli.settings import (
    add_file_arguments,
    add_table_arguments,
    parse_settings,
    template,
    training_parser,
)
from ats.files import atomic_path
from ats.memory import keep_freed_memory
from ats.training.arguments import patch_extents, positive_int
from ats.training.report import exit_status

USAGE = """usage: ats COMMAND ...

Learn from images that are too big to look at.

commands:
  train      train on images and one label each
  evaluate   measure a trained network, with 95 % intervals
  predict    print what a trained network says of images
  explain    show where it looked: heat map, patches, coordinates
  crossval   train and measure in turns over all images
  info       print what a file says about its image
  init       write a file with every setting
  export     write a trained network for other programs

ats COMMAND -h shows the options of a command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    name, *rest = given
    if name not in _COMMANDS:
        print(f"ats: error: {name!r} is no command\n\n{USAGE}", file=sys.stderr)
        return 2
    keep_freed_memory()
    return exit_status(
        lambda: _COMMANDS[name](rest),
        name=f"ats {name}",
        stopped="ats train and ats crossval go on with --resume",
    )


def _parser(name: str, description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"ats {name}",
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )


def _train(rest: list[str]) -> None:
    parser = training_parser(prog="ats train", description="Train on images and one label each.")
    args = parse_settings(rest, parser)
    from ats.cli.train import train

    train(args)


def _crossval(rest: list[str]) -> None:
    parser = training_parser(
        prog="ats crossval", description="Train and measure in turns over all images."
    )
    parser.add_argument("--folds", type=positive_int, default=5, help="parts of the images")
    args = parse_settings(rest, parser)
    if args.folds < 2:
        parser.error("--folds must be at least 2")
    from ats.cli.train import crossval

    crossval(args)


def _evaluate(rest: list[str]) -> None:
    parser = _parser("evaluate", "Measure a trained network on held-out or other images.")
    parser.add_argument("run", help="folder of a training")
    parser.add_argument("--out", dest="output", help="folder of the results (default: in the run)")
    add_table_arguments(parser.add_argument)
    args = parser.parse_args(rest)
    from ats.cli.use import evaluate

    evaluate(args)


def _images(parser: argparse.ArgumentParser) -> None:
    add: Any = parser.add_argument
    add("run", help="folder of a training")
    add("image", nargs="+", help="images, or folders of images")
    add_file_arguments(add)


def _predict(rest: list[str]) -> int:
    parser = _parser("predict", "Print what a trained network says of images, as CSV.")
    _images(parser)
    parser.add_argument("--out", dest="output", help="file to write instead")
    args = parser.parse_args(rest)
    from ats.cli.use import predict

    return predict(args)


def _explain(rest: list[str]) -> int:
    parser = _parser("explain", "Show where a trained network looked.")
    _images(parser)
    parser.add_argument("--out", dest="output", default="explained", help="folder to write to")
    args = parser.parse_args(rest)
    from ats.cli.use import explain

    return explain(args)


def _info(rest: list[str]) -> None:
    parser = _parser("info", "Print what a file says about its image.")
    parser.add_argument("image", nargs="+", help="images")
    parser.add_argument("--axes", default=None, help="axes of arrays where unclear, such as YXC")
    args = parser.parse_args(rest)
    from ats.cli.info import info

    info(args)


def _init(rest: list[str]) -> None:
    parser = _parser("init", "Write a YAML file with every setting, for ats train --config.")
    parser.add_argument("file", type=Path, nargs="?", default=Path("ats.yaml"), help="to write")
    args = parser.parse_args(rest)
    if args.file.exists():
        raise ValueError(f"{args.file} exists already; delete it, or name another file")
    with atomic_path(args.file) as temporary:
        temporary.write_text(template(training_parser()), encoding="utf-8")
    print(f"wrote {args.file}")


def _export(rest: list[str]) -> None:
    parser = _parser("export", "Write a trained network for other programs.")
    parser.add_argument("run", help="folder of a training")
    parser.add_argument("--out", dest="output", help="folder to write to (default: in the run)")
    parser.add_argument(
        "--small_shape",
        type=patch_extents,
        default="256x256",
        help="HEIGHTxWIDTH of the small views that the program takes",
    )
    args = parser.parse_args(rest)
    from ats.cli.export import export

    export(args)


_COMMANDS: dict[str, Callable[[list[str]], int | None]] = {
    "train": _train,
    "evaluate": _evaluate,
    "predict": _predict,
    "explain": _explain,
    "crossval": _crossval,
    "info": _info,
    "init": _init,
    "export": _export,
}


if __name__ == "__main__":
    sys.exit(main())
