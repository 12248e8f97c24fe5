#!/usr/bin/env python3
"""Make every figure and table of the results page from the tables in ``docs/results``.

With ``--train``, trainings of ``scripts/mnist.py`` come first, and their tables replace those that
are there. They go seed by seed, the most important first; after every one its table is stored. A
command that is stopped, or that stops after ``--minutes``, goes on where it was when it is given
again, with the same options. What this program does not know goes to the trainings.

    python benchmarks/results.py
    python benchmarks/results.py --train mnist-1500-fast mnist-500-fast --precision bf16
"""

import argparse
import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import torch
from clock import Clock, parse_and_pass_on

from ats.files import atomic_path, write_json
from ats.plots import save_learning_curves
from ats.training.arguments import not_negative_int, positive_float
from ats.training.history import Row, mean_of, read_history

ROOT = Path(__file__).resolve().parents[1]


class Experiment(NamedTuple):
    """A data set, what is trained on it, and what is known of it.

    Attributes:
        title: of its figure.
        data: options of ``make_mnist.py``; None where trainings are those of another program.
        runs: options of ``mnist.py`` by the name of a run; ``{work}`` and ``{seed}`` stand for the
            folder of all runs and the seed.
        published: test errors that others report, by who and when.
    """

    title: str
    data: str | None
    runs: Mapping[str, str]
    published: Mapping[str, float] = {}


FAST, PUBLISHED = "--recipe fast", "--recipe published"
# A network that was trained on 1500 x 1500, where digits are as large.
START = "{work}/mnist-1500-long-{seed}/weights_029.safetensors"
PEAKS = f"--recipe peaks --start {START}"
# The most important first.
EXPERIMENTS = {
    "mnist-1500": Experiment(
        "Megapixel MNIST 1500 x 1500 with noise, 5,000 images",
        "",
        {
            "fast": FAST,
            "long": f"{FAST} --epochs 30",
            "peaks": PEAKS,
            "published": f"{PUBLISHED} --epochs 500",
        },
        {
            "2019, epochs 1 to 210": 0.90,
            "2019, epoch 500": 0.20,
            "IPS, 900 patches, epoch 150": 0.009,
        },
    ),
    "mnist-500": Experiment(
        "Megapixel MNIST 500 x 500, no noise, 5,000 images",
        "--width 500 --height 500 --scale 0.2 --no_noise",
        {"fast": FAST, "default": "--epochs 30", "published": f"{PUBLISHED} --epochs 30"},
        {"2019, epoch 30": 0.17},
    ),
    "mnist-3000": Experiment(
        "Megapixel MNIST 3000 x 3000 with 800 stamps of noise, 5,000 images",
        "--width 3000 --height 3000 --n_noise 800",
        {"fast": FAST, "peaks": f"{PEAKS} --n_patches 50 --epochs 1"},
        {"IPS, epoch 150": 0.009},
    ),
    "mnist-2500": Experiment(
        "Megapixel MNIST 1500 x 1500 with noise, 2,500 images",
        "--n_train 2500 --n_test 500",
        {"default": "--batch_size 32 --epochs 15"},
        {"2019, epochs 1 to 210": 0.90, "2019, epoch 500": 0.20},
    ),
    "optdigits-500": Experiment(
        "Embedded digits 500 x 500, no noise, 2,000 images",
        "--digits optdigits --no_noise --width 500 --height 500 --scale 0.2 "
        "--n_train 2000 --n_test 500",
        {"default": "--patch_size 40x40 --batch_size 16 --epochs 8"},
    ),
    "drawn-scenes": Experiment("Drawn street scenes 360 x 480, 800 images", None, {"default": ""}),
}
# Where what a run leaves is stored: once it is trained, and once it is measured.
TRAINED = {"cost.json": ".json", "history.csv": ".csv"}
MEASURED = {"patches.csv": "-patches.csv"}
RUNS = {
    f"{name}-{run}": (name, options)
    for name, experiment in EXPERIMENTS.items()
    for run, options in experiment.runs.items()
    if experiment.data is not None
}


def options_of(name: str, work: Path | str, seed: int) -> list[str]:
    """Options of a run, each by itself: names of folders may have blanks."""
    return [option.format(work=work, seed=seed) for option in RUNS[name][1].split()]


def train(name: str, seed: int, args: argparse.Namespace, extra: list[str], clock: Clock) -> None:
    """Train one run to its end, as far as it is not there yet, and store its tables.

    Raises:
        SystemExit: it was begun with other options, or failed.
    """
    experiment, options = RUNS[name]
    data, folder = args.work / experiment, args.work / f"{name}-{seed}"
    target = args.docs / "results" / folder.name
    made = (EXPERIMENTS[experiment].data or "").split()
    given, shown = (
        [*options_of(name, work, seed), "--seed", str(seed), *extra]
        # As it is repeated elsewhere.
        for work in (args.work, "runs")
    )
    cost: dict[str, Any] = {
        "command": f"python scripts/mnist.py data/{experiment} runs/{name} {' '.join(shown)}",
        "data": " ".join(["python scripts/make_mnist.py", f"data/{experiment}", *made]),
        "device": device(extra),
        "commits": [],
        "peak_mib": 0,
        "seconds": 0,
        "finished": False,
    }
    record = folder / "cost.json"
    if record.exists():
        former = json.loads(record.read_text())
        if former["command"] != cost["command"]:
            raise SystemExit(
                f"work={folder} holds a run of other options ({former['command']}); give these, or "
                "another folder"
            )
        cost = former
    if not cost["finished"]:
        start = Path(START.format(work=args.work, seed=seed))
        if START in options and not start.is_file():
            raise SystemExit(
                f"{name} starts from mnist-1500-long, and {start} is not there; train that before "
                f"it (--train mnist-1500-long {name})"
            )
        cost["commits"] = list(dict.fromkeys([*cost["commits"], commit()]))
        folder.mkdir(parents=True, exist_ok=True)
        write_json(record, cost)
        if args.mnist is not None and "optdigits" not in made:
            made += ["--mnist", str(args.mnist)]
        clock.run([str(ROOT / "scripts" / "make_mnist.py"), str(data), *made])
        script = [str(ROOT / "scripts" / "mnist.py"), str(data), str(folder), *given, "--resume"]
        before = len(read_history(folder / "history.csv"))
        peak = round(clock.run(script) / 2**20)
        rows = read_history(folder / "history.csv")
        if len(rows) > before:
            # A run that is finished already says so, in little memory.
            cost["peak_mib"] = max(cost["peak_mib"], peak)
        cost["seconds"] = round(sum(row["seconds"] for row in rows))
        write_json(record, cost)
        # What follows takes long as well. Until then there is no table of this network.
        for ending in MEASURED.values():
            target.with_name(target.name + ending).unlink(missing_ok=True)
        store(folder, target, TRAINED)
        precision = json.loads((folder / "parameters.json").read_text())["arguments"]["precision"]
        measure = [str(ROOT / "benchmarks" / "patches_at_test_time.py"), str(folder), str(data)]
        measure += ["--precision", precision, "--draws", "1", "4"]
        clock.run([*measure, "--csv", str(folder / "patches.csv")])
        write_json(record, cost | {"finished": True})
    store(folder, target, {**TRAINED, **MEASURED})


def store(folder: Path, target: Path, files: Mapping[str, str]) -> None:
    """Copy files of a run to where tables are kept, under the name of the run and these endings."""
    for source, ending in files.items():
        with atomic_path(target.with_name(target.name + ending)) as temporary:
            shutil.copyfile(folder / source, temporary)


def commit() -> str:
    """The commit of this program, and whether anything was changed since."""
    git = ["git", "-C", str(ROOT)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "ats", "scripts"])
    return head.stdout.strip() + (", changed" if changed.returncode else "")


def device(extra: list[str]) -> str:
    """What trainings run on."""
    if torch.cuda.is_available() and not {"cpu", "--accelerator=cpu"} & set(extra):
        return torch.cuda.get_device_name()
    return f"CPU, threads: {torch.get_num_threads()}"


def tables(results: Path, name: str) -> dict[str, list[Row]]:
    """Stored tables of a run, by what follows its name: a seed, or nothing."""
    found = {}
    for path in sorted(results.glob(f"{name}*.csv")):
        rest = path.stem.removeprefix(name).removeprefix("-")
        if not rest or rest.isdecimal():
            found[rest] = read_history(path)
    return found


def draw_figures(docs: Path) -> None:
    """One figure for each experiment with a table, and that of the designs."""
    for name, experiment in EXPERIMENTS.items():
        means = {}
        for run, options in experiment.runs.items():
            found = list(tables(docs / "results", f"{name}-{run}").values())
            # Beside trainings from scratch, one that goes on from another would mislead.
            if found and "--start" not in options:
                label = run if len(found) == 1 else f"{run}, mean of {len(found)} seeds"
                means[label] = mean_of(found)
        if means:
            path = docs / "figures" / f"{name}.png"
            save_learning_curves(path, means, experiment.title, experiment.published)
    designs: dict[str, list[list[Row]]] = {}
    for path in sorted((docs / "results" / "designs").glob("*.csv")):
        designs.setdefault(path.stem.rpartition("-")[0], []).append(read_history(path))
    if not designs:
        return
    means = {name: mean_of(found) for name, found in designs.items()}
    title = "Designs: 500 x 500, no noise, 1,000 images, mean of two seeds"
    save_learning_curves(docs / "figures" / "designs.png", means, title)


def summary(results: Path) -> str:
    """A line for each run with a record."""
    lines = [
        "| run | seeds | epochs | test error, mean | each | below 0.80 in epoch | minutes "
        "| peak MiB | device, commit |",
        "|---|--:|--:|--:|---|--:|--:|--:|---|",
    ]
    for name in RUNS:
        found = {seed: rows for seed, rows in tables(results, name).items() if seed}
        if not found:
            continue
        records = [json.loads((results / f"{name}-{seed}.json").read_text()) for seed in found]
        errors = [rows[-1]["test_error"] for rows in found.values()]
        each = " ".join(f"{error:.3f}" for error in errors)
        starts = " ".join(str(first_below(rows, 0.8)) for rows in found.values())
        minutes = " ".join(f"{record['seconds'] / 60:.0f}" for record in records)
        # Only what has come to its end knows its peak.
        peak = max(record["peak_mib"] for record in records) or "–"
        where = "; ".join(
            dict.fromkeys(f"{r['device']}, {' '.join(r['commits'])}" for r in records)
        )
        average = f"{mean(errors):.4f}"
        epochs = min(map(len, found.values()))
        cells = (name, len(found), epochs, average, each, starts, minutes, peak, where)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def patches_summary(results: Path) -> str:
    """Mean test errors over seeds against the number of patches at test time."""
    lines = ["| run | patches | one pass | peaks | 1 draw | 4 draws |", "|---|--:|--:|--:|--:|--:|"]
    for name in RUNS:
        found = sorted(results.glob(f"{name}-*-patches.csv"))
        tables = [list(csv.DictReader(path.read_text().splitlines())) for path in found]
        for same in in_all(tables):
            cells = [name, same[0]["n_patches"]]
            for column in ("deterministic", "peaks", "draws_1", "draws_4"):
                # Tables may be older than a column.
                values = [row.get(f"{column}_error") or "" for row in same]
                cells.append(f"{mean(map(float, values)):.4f}" if all(values) else "–")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def in_all(tables: list[list[dict[str, str]]]) -> list[list[dict[str, str]]]:
    """For each number of patches that every table has, its row of each."""
    rows = [{row["n_patches"]: row for row in table} for table in tables]
    numbers = [number for number in (rows[0] if rows else ()) if all(number in own for own in rows)]
    return [[own[number] for own in rows] for number in numbers]


def first_below(rows: list[Row], bound: float) -> int | str:
    """The first epoch, from 1, with a test error below a bound."""
    return next((int(row["epoch"]) + 1 for row in rows if row["test_error"] < bound), "–")


def main(arguments: list[str] | None = None) -> None:
    """Train what is asked for, then make figures and the summary."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add: Any = parser.add_argument
    add("--train", nargs="+", choices=RUNS, default=[], help="runs to train, in this order")
    add("--seeds", type=not_negative_int, nargs="+", default=[0, 1, 2], help="0 1 2 by default")
    add("--minutes", type=positive_float, default=None, help="stop after so many")
    add("--work", type=Path, default=Path("runs/results"), help="folder for data and runs")
    add("--docs", type=Path, default=ROOT / "docs", help="folder with results and figures")
    add("--mnist", type=Path, default=None, help="folder with MNIST's four files")
    args, extra = parse_and_pass_on(parser, arguments)
    if extra and not args.train:
        parser.error(f"unrecognized arguments: {' '.join(extra)}; those of mnist.py need --train")
    for name in ("results", "figures"):
        if not (args.docs / name).is_dir():
            parser.error(f"docs={args.docs} has no folder {name}; make it, or give another folder")
    clock = Clock(args.minutes)
    status = 0
    try:
        for seed in args.seeds:
            for name in args.train:
                train(name, seed, args, extra, clock)
    except KeyboardInterrupt:
        print("stopped; the same command goes on where it was", file=sys.stderr)
        status = 130
    draw_figures(args.docs)
    with atomic_path(args.docs / "results" / "summary.md") as temporary:
        temporary.write_text(summary(args.docs / "results"), encoding="utf-8")
    with atomic_path(args.docs / "results" / "patches.md") as temporary:
        temporary.write_text(patches_summary(args.docs / "results"), encoding="utf-8")
    if status:
        raise SystemExit(status)


if __name__ == "__main__":
    main()
