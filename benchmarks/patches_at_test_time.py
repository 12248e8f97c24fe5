"""Test error of a finished run against the number of patches that it may look at.

Takes the folder of a run of ``scripts/mnist.py`` or ``scripts/speed_limits.py``, and the latest
weights in it. For each number of patches: one deterministic pass; the largest attention; and draws
of the run's design, the features averaged over so many of them. Errors of fewer draws than the most
are means over groups of them. ``exact`` is the mean over all positions, but for those that hold
next to no attention. With ``--csv`` each row is kept once it is there; the command can be stopped
and given again, and goes on after the last one.

    python benchmarks/patches_at_test_time.py runs/mnist --n_patches 5 10 20 exact --csv more.csv
"""

import argparse
import csv
from pathlib import Path

import torch
from finished_run import Run, read_run
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor

from ats import Sample, exact_expectation, sample
from ats.datasets.batch import Batch
from ats.datasets.progress import progress_bar
from ats.exact import weighted_features
from ats.files import value_digest, writable_folder, write_csv
from ats.memory import keep_freed_memory
from ats.nn import shape_of, unit_float
from ats.sampling import Average, DesignLike, Peaks
from ats.training.arguments import not_negative_float, not_negative_int, positive_int
from ats.training.batches import image_generators
from ats.training.build import training_design
from ats.training.processor import warn_of_bfloat16
from ats.training.report import exit_status
from ats.training.tasks import cross_entropy, wrong_class

EXACT = "exact"
FIXED = ("deterministic", "top", "peaks")
PRECISIONS = {"bf16": torch.bfloat16, "16": torch.float16}

# Images, and patches, that are looked at together.
IMAGES = 16
CHUNK = {"cpu": 128, "cuda": 1024}

Row = dict[str, str]


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("run", type=Path, help="folder of a run")
    add("dataset", type=Path, nargs="?", help="folder of its data set, where that has moved")
    add(
        "--n_patches",
        type=patch_count,
        nargs="+",
        default=["5", "10", "20", "50", EXACT],
        help="numbers of patches, or exact (default: 5 10 20 50 exact)",
    )
    add(
        "--draws",
        type=positive_int,
        nargs="+",
        default=[1, 4, 16],
        help="draws to average the features over (default: 1 4 16)",
    )
    add(
        "--tolerance",
        type=not_negative_float,
        default=1e-4,
        help="attention that exact may leave out (default: 0.0001)",
    )
    add(
        "--precision",
        choices=("32", *PRECISIONS),
        default="32",
        help="of the numbers (default: 32)",
    )
    add("--seed", type=not_negative_int, default=0, help="seed of the draws (default: 0)")
    add("--csv", type=Path, default=None, help="file for the table")
    return parser.parse_args(arguments)


def patch_count(text: str) -> str:
    """A number of patches, or ``exact``."""
    return text if text == EXACT else str(positive_int(text))


def columns(draws: list[int]) -> list[str]:
    """Names of what is measured: without ``_error`` and ``_loss``."""
    return [*FIXED, *(f"draws_{number}" for number in sorted(set(draws)))]


def measure(run: Run, n_patches: str, args: argparse.Namespace) -> dict[str, float]:
    """Means over all test images, by column."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and args.precision == "bf16":
        warn_of_bfloat16()
    run.model.to(device)
    n_images = len(run.test)
    sums: dict[str, Tensor] = {}
    with (
        torch.no_grad(),
        torch.autocast(device.type, PRECISIONS.get(args.precision), enabled=args.precision != "32"),
        progress_bar(f"{n_patches} patches", n_images, unit=" images", shown=True) as bar,
    ):
        for first in range(0, n_images, IMAGES):
            indices = list(range(first, min(first + IMAGES, n_images)))
            batch = move_data_to_device(run.test.__getitems__(indices), device)
            for name, values in outcomes(run, batch, n_patches, args).items():
                sums[name] = sums.get(name, 0.0) + values.double().sum()
            bar.update(len(indices))
    return {name: float(total) / n_images for name, total in sums.items()}


def outcomes(run: Run, batch: Batch, n_patches: str, args: argparse.Namespace) -> dict[str, Tensor]:
    """What each image adds to the columns, (B)."""
    found: dict[str, Tensor] = {}
    if n_patches == EXACT:
        exact = exact_expectation(
            run.model.sampling,
            batch.x_low,
            batch.x_high,
            tolerance=args.tolerance,
            chunk=CHUNK[batch.x_low.device.type],
        )
        found.update(positions=exact.n_positions, left_out=exact.left_out)
        passes = {FIXED[0]: exact.features.unsqueeze(1)}
    else:
        passes = sampled_features(run, batch, int(n_patches), args)
    for name, features in passes.items():
        logits = run.model.logits(features.flatten(0, 1)).float()
        target = batch.target.repeat_interleave(features.shape[1])
        for what, values in (
            ("error", wrong_class(logits, target)),
            ("loss", cross_entropy(logits, target, None)),
        ):
            found[f"{name}_{what}"] = values.reshape(len(features), -1).double().mean(1)
    return found


def sampled_features(
    run: Run, batch: Batch, n_patches: int, args: argparse.Namespace
) -> dict[str, Tensor]:
    """Features (B, M, F) of each column: of one pass, or of M groups of draws.

    The attention is computed once, and a position that several samples hit is looked at once.
    """
    sampling = run.model.sampling
    attention = sampling.attend(unit_float(batch.x_low))
    most = max(args.draws)
    # Centring changes gradients alone, and cannot be had of a single patch.
    design = training_design(run.args.design, centred=False)
    generator = image_generators(args.seed, 0, batch.index.tolist())
    shape = shape_of(batch.x_high, batch.x_low)
    peaks = sampling.sample.spaced(Peaks(), attention, batch.x_low, shape)
    designs: tuple[DesignLike, ...] = (*FIXED[:-1], peaks)
    maps = [weight_maps(sample(attention, n_patches, design=d), attention) for d in designs]
    # Peaks are the same in every draw.
    random = not isinstance(design, Peaks)
    if random:
        average = Average(design, most)
        drawn = sample(attention, n_patches, design=average, generator=generator)
        maps.append(weight_maps(drawn, attention, most))
    chunk = CHUNK[attention.device.type]
    weights = torch.cat(maps, 1)
    features = weighted_features(sampling, weights, batch.x_low, batch.x_high, chunk=chunk)
    found = {name: features[:, [place]] for place, name in enumerate(FIXED)}
    draws = features[:, len(FIXED) :]
    for number in args.draws if random else ():
        groups = torch.unflatten(draws[:, : most // number * number], 1, (-1, number))
        found[f"draws_{number}"] = groups.mean(2)
    return found


def weight_maps(drawn: Sample, attention: Tensor, draws: int = 1) -> Tensor:
    """The weights of samples where they belong in the attention maps, (B, draws, \\*map)."""
    maps = attention.new_zeros(len(attention), draws, *attention.shape[1:])
    image = torch.arange(len(attention), device=maps.device).unsqueeze(1)
    row = torch.arange(draws, device=maps.device)
    row = row.repeat_interleave(drawn.weights.shape[1] // draws)
    places = (image, row, *drawn.positions.unbind(2))
    # Drawn with replacement, a position can come twice.
    return maps.index_put(places, drawn.weights * draws, accumulate=True)


def key_of(run: Run, args: argparse.Namespace) -> str:
    """A name for everything that a row depends on besides its number of patches."""
    parts = [run.identity, args.precision, args.seed, args.tolerance]
    return value_digest(parts)


def read_rows(path: Path, header: list[str], key: str) -> dict[str, Row]:
    """Rows of a table that was begun, by their number of patches.

    Raises:
        ValueError: it is the table of something else.
    """
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows, found = list(reader), reader.fieldnames
    if found != header or any(row["key"] != key for row in rows):
        raise ValueError(
            f"csv={path} holds another table: of other draws, weights, data, precision, seed or "
            "tolerance; repeat these, or choose another file"
        )
    return {row["n_patches"]: row for row in rows}


def tabulate(run: Run, args: argparse.Namespace) -> list[Row]:
    """The rows that were asked for, of which those in the file are not measured again."""
    measures = [f"{name}_{what}" for name in columns(args.draws) for what in ("error", "loss")]
    header = ["n_patches", *measures, "positions", "left_out", "key"]
    key = key_of(run, args)
    if args.csv:
        writable_folder(args.csv.parent)
    rows = read_rows(args.csv, header, key) if args.csv else {}
    check_counts(run, args.n_patches)
    for n_patches in args.n_patches:
        if n_patches in rows:
            continue
        found = {name: repr(value) for name, value in measure(run, n_patches, args).items()}
        rows[n_patches] = {**dict.fromkeys(header, ""), **found, "n_patches": n_patches, "key": key}
        if args.csv:
            write_csv(args.csv, header, ([row[name] for name in header] for row in rows.values()))
    return [rows[n_patches] for n_patches in dict.fromkeys(args.n_patches)]


def check_counts(run: Run, counts: list[str]) -> None:
    """Refuse more patches than there are positions, before others are measured.

    Raises:
        ValueError: there are not so many.
    """
    with torch.no_grad():
        attention = run.model.sampling.attend(unit_float(run.test[0].x_low))
    positions = attention[0].numel()
    most = max((int(count) for count in counts if count != EXACT), default=0)
    if most > positions:
        raise ValueError(
            f"n_patches={most} exceeds the {positions} positions of the attention map; give "
            "smaller numbers by --n_patches"
        )


def markdown(rows: list[Row], draws: list[int]) -> str:
    """Test errors, and losses in brackets."""
    names = columns(draws)
    titles = [*FIXED, *(f"{n} draw{'s' if n > 1 else ''}" for n in sorted(set(draws)))]
    lines = [f"| patches | {' | '.join(titles)} |", f"|--:|{'--:|' * len(titles)}"]
    notes = []
    for row in rows:
        cells = [
            f"{float(row[f'{name}_error']):.4f} ({float(row[f'{name}_loss']):.4f})"
            if row[f"{name}_error"]
            else "–"
            for name in names
        ]
        lines.append(f"| {row['n_patches']} | {' | '.join(cells)} |")
        if row["positions"]:
            notes = [
                f"\nexact: {float(row['positions']):.1f} positions of an image on average; the "
                f"others hold {float(row['left_out']):.1e} of its attention."
            ]
    return "\n".join([*lines, *notes])


def main(arguments: list[str] | None = None) -> None:
    """Measure what is missing, and print the table."""
    args = parse(arguments)
    keep_freed_memory()

    def act() -> None:
        print(markdown(tabulate(read_run(args.run, args.dataset), args), args.draws))

    stopped = "with --csv the same command goes on after the last row of the table"
    status = exit_status(act, name=Path(__file__).name, stopped=stopped)
    if status:
        raise SystemExit(status)


if __name__ == "__main__":
    main()
