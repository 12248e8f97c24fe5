"""Finished runs, measured with other numbers of patches than they were trained with."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from programs import make_digits, rows, run

pytest.importorskip("lightning")
import patches_at_test_time as benchmark
from finished_run import read_run

from ats.datasets.street_scenes import make_street_scenes
from ats.sampling import Average, Peaks, Systematic, Top
from ats.training.batches import image_generators
from ats.training.tasks import cross_entropy

SMALL = ("--patch_size", "24x24", "--n_patches", "3", "--batch_size", "8", "--epochs", "2")
N_TEST = 12
POSITIONS = 46 * 40


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_digits(tmp_path_factory.mktemp("data"), n_train=16, n_test=N_TEST)


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("run")
    run("mnist.py", data, output, *SMALL)
    return output


@pytest.fixture
def own(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run to change."""
    return Path(shutil.copytree(trained, tmp_path / "own"))


@pytest.fixture(autouse=True)
def _memory(monkeypatch: pytest.MonkeyPatch) -> None:
    # Not for the tests after these.
    monkeypatch.setattr(benchmark, "keep_freed_memory", lambda: None)


def measure(folder: Path, table: Path, *options: object) -> dict[str, dict[str, str]]:
    """Rows that the command leaves in its file."""
    benchmark.main([*map(str, (folder, *options)), "--csv", str(table)])
    return {row["n_patches"]: row for row in rows(table)}


def change(folder: Path, **arguments: object) -> None:
    """Change arguments in the parameters of a run; None takes one out."""
    path = folder / "parameters.json"
    parameters = json.loads(path.read_text())
    parameters["arguments"].update(arguments)
    kept = {name: value for name, value in parameters["arguments"].items() if value is not None}
    path.write_text(json.dumps({**parameters, "arguments": kept}))


def assert_measured_as_in_training(row: dict[str, str], folder: Path, tolerance: float) -> None:
    last = rows(folder / "history.csv")[-1]
    for name in ("error", "loss"):
        wanted = pytest.approx(float(last[f"test_{name}"]), rel=tolerance)
        assert float(row[f"deterministic_{name}"]) == wanted


def test_its_own_number_of_patches_gives_its_own_result(trained: Path, tmp_path: Path) -> None:
    found = measure(trained, tmp_path / "a.csv", "--n_patches", 3, "--draws", 1)
    assert_measured_as_in_training(found["3"], trained, 1e-6)


def test_all_patches_are_exact(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--n_patches", POSITIONS, "exact", "--draws", 2, "--tolerance", 0)
    found = measure(trained, tmp_path / "a.csv", *options)
    exact, sampled = found["exact"], found[str(POSITIONS)]
    for way in ("deterministic", "top", "draws_2"):
        assert sampled[f"{way}_error"] == exact["deterministic_error"]
        loss = pytest.approx(float(exact["deterministic_loss"]), rel=1e-6)
        assert float(sampled[f"{way}_loss"]) == loss
    assert (float(exact["positions"]), float(exact["left_out"])) == (POSITIONS, 0)
    assert exact["top_loss"] == exact["draws_2_error"] == sampled["positions"] == ""
    said = capsys.readouterr().out
    loss = f"{float(exact['deterministic_loss']):.4f}"
    assert said.count(f"({loss})") == 4
    assert "| patches | deterministic | top | peaks | 2 draws |" in said
    assert f"({loss}) | – | – | – |" in said
    assert f"exact: {POSITIONS}.0 positions of an image on average" in said


def test_less_is_looked_at_with_a_tolerance(trained: Path, tmp_path: Path) -> None:
    whole = measure(trained, tmp_path / "a.csv", "--n_patches", "exact")["exact"]
    part = measure(trained, tmp_path / "b.csv", "--n_patches", "exact", "--tolerance", 0.1)["exact"]
    assert float(part["positions"]) < float(whole["positions"]) < POSITIONS
    assert float(whole["left_out"]) <= 1e-4 < float(part["left_out"]) <= 0.1


def losses(folder: Path, inference: Any, n_patches: int, calls: int = 1) -> list[float]:
    """The mean test loss of each of several calls of the network that draws as told."""
    found = read_run(folder)
    found.model.sampling.sample.inference = inference
    sums = [0.0] * calls
    for index in range(N_TEST):
        batch = found.test[index]
        generator = image_generators(7, 0, [index])
        for call in range(calls):
            with torch.no_grad():
                logits, _ = found.model(
                    batch.x_low, batch.x_high, generator=generator, n_patches=n_patches
                )
            sums[call] += float(cross_entropy(logits, batch.target, None)) / N_TEST
    return sums


@pytest.mark.parametrize("n_patches", [1, 5])
def test_columns_are_passes_of_the_network(trained: Path, tmp_path: Path, n_patches: int) -> None:
    options = ("--n_patches", n_patches, "--draws", 4, 1, 3, 4, "--seed", 7)
    row = measure(trained, tmp_path / "a.csv", *options)[str(n_patches)]
    assert [name for name in row if name.endswith("_loss")] == [
        f"{name}_loss"
        for name in ("deterministic", "top", "peaks", "draws_1", "draws_3", "draws_4")
    ]
    design = Systematic()
    single = losses(trained, design, n_patches, 4)
    wanted = {
        "top": losses(trained, Top(), n_patches),
        "draws_1": [sum(single) / 4],
        # Of four draws there is one group of three.
        "draws_3": losses(trained, Average(design, 3), n_patches),
        "draws_4": losses(trained, Average(design, 4), n_patches),
    }
    for name, (loss,) in wanted.items():
        assert float(row[f"{name}_loss"]) == pytest.approx(loss, rel=1e-5)
    assert len({round(loss, 6) for (loss,) in wanted.values()}) == 4
    # Of a single patch, that of the largest attention.
    (loss,) = losses(trained, Peaks(), n_patches)
    assert float(row["peaks_loss"]) == pytest.approx(loss, rel=1e-5)
    assert (row["peaks_loss"] == row["top_loss"]) == (n_patches == 1)


def test_a_table_goes_on(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []
    original = benchmark.measure

    def counted(found: Any, n_patches: str, args: Any) -> dict[str, float]:
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.append(n_patches)
        return original(found, n_patches, args)

    monkeypatch.setattr(benchmark, "measure", counted)
    options = ("--n_patches", 3, 1, 2, 1, "--draws", 2)
    with pytest.raises(SystemExit, match="130"):
        measure(trained, tmp_path / "a.csv", *options)
    assert [row["n_patches"] for row in rows(tmp_path / "a.csv")] == measured == ["3", "1"]
    measured[:] = [""]
    table = measure(trained, tmp_path / "a.csv", *options)
    assert measured == ["", "2"]
    assert list(table) == ["3", "1", "2"]
    # And nothing of it depends on how often it was begun.
    measured.clear()
    monkeypatch.setattr(benchmark, "measure", original)
    assert measure(trained, tmp_path / "b.csv", *options) == table


@pytest.mark.parametrize(
    "options", [("--seed", "1"), ("--precision", "bf16"), ("--tolerance", "0.1"), ("--draws", "3")]
)
def test_a_table_of_something_else_is_refused(
    trained: Path, tmp_path: Path, options: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "a.csv"
    measure(trained, table, "--n_patches", 2, "--draws", 2)
    before = table.read_bytes()
    with pytest.raises(SystemExit, match="2"):
        measure(trained, table, "--n_patches", 2, "--draws", 2, *options)
    assert f"csv={table} holds another table" in capsys.readouterr().err
    assert table.read_bytes() == before


def test_a_moved_data_set_and_a_longer_run(data: Path, own: Path, tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    options = ("--n_patches", 3, "--draws", 2)
    before = measure(own, table, *options)
    moved = shutil.copytree(data, tmp_path / "moved")
    change(own, dataset="no/such/folder", workers=1)
    assert measure(own, table, moved, *options) == before
    shutil.copy(own / "weights_000.safetensors", own / "weights_002.safetensors")
    with pytest.raises(SystemExit, match="2"):
        measure(own, table, moved, *options)
    assert measure(own, tmp_path / "b.csv", moved, *options) != before


def test_runs_of_former_versions_and_other_designs(own: Path, tmp_path: Path) -> None:
    change(own, average=None, inference=None, design="published")
    found = measure(own, tmp_path / "a.csv", "--n_patches", 1, 3, "--draws", 2)
    assert_measured_as_in_training(found["3"], own, 1e-6)


def test_peaks_are_not_drawn(own: Path, tmp_path: Path) -> None:
    change(own, design="peaks")
    row = measure(own, tmp_path / "table.csv", "--n_patches", 3, "--draws", 1, 2)["3"]
    assert row["peaks_error"]
    assert not row["draws_1_error"]
    assert not row["draws_2_loss"]


def test_an_empty_file_is_no_table(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.csv").touch()
    with pytest.raises(SystemExit, match="2"):
        measure(trained, tmp_path / "a.csv", "--n_patches", 3, "--draws", 1)
    assert "a.csv holds another table" in capsys.readouterr().err


def test_reduced_precision(data: Path, tmp_path: Path) -> None:
    run("mnist.py", data, tmp_path / "run", *SMALL, "--precision", "bf16")
    found = {
        precision: measure(
            tmp_path / "run",
            tmp_path / f"{precision}.csv",
            # Few positions: without instructions for it, bfloat16 is slow.
            *("--n_patches", 3, "exact", "--tolerance", 0.9, "--precision", precision),
        )
        for precision in ("32", "bf16")
    }
    assert_measured_as_in_training(found["bf16"]["3"], tmp_path / "run", 1e-3)
    for n_patches in ("3", "exact"):
        full, reduced = (float(found[p][n_patches]["deterministic_loss"]) for p in found)
        assert full != reduced
        assert full == pytest.approx(reduced, rel=0.02)


def test_speed_limits(tmp_path: Path) -> None:
    data = make_street_scenes(tmp_path / "scenes", n_train=8, n_test=4, progress=False)
    small = ("--patch_size", "60x50", "--n_patches", "2", "--batch_size", "4", "--epochs", "1")
    kept = ("--source", "synthetic", "--cache", tmp_path / "cache")
    run("speed_limits.py", data, tmp_path / "run", *small, *kept)
    found = measure(tmp_path / "run", tmp_path / "a.csv", "--n_patches", 2, "--draws", 1)
    assert_measured_as_in_training(found["2"], tmp_path / "run", 1e-5)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: shutil.rmtree(run), "parameters.json is missing; name the folder of a run"),
        (
            lambda run: [path.unlink() for path in run.glob("weights_*")],
            "has no weights_EEE.safetensors, since none of its epochs has finished",
        ),
        (
            lambda run: (run / "weights_001.safetensors").write_bytes(b"nothing"),
            "weights_001.safetensors is damaged or no safetensors file",
        ),
        (lambda run: (run / "parameters.json").write_text("{"), "parameters.json is damaged ("),
        (
            lambda run: (run / "parameters.json").write_text("[]"),
            "parameters.json is damaged, or not of a run",
        ),
        (
            lambda run: (run / "parameters.json").write_text(
                '{"script": "whole_image.py", "arguments": {"dataset": "data"}}'
            ),
            "is of a run of whole_image.py; name one of mnist.py or speed_limits.py",
        ),
        (
            lambda run: change(run, patch_size=3),
            "parameters.json is damaged (TypeError",
        ),
        (
            lambda run: change(run, dataset="no/such/folder"),
            "is not in no/such/folder; name its folder after that of the run",
        ),
        (lambda run: change(run, feature_scale=0), "holds another network: scale is ()"),
    ],
)
def test_what_is_no_finished_run(
    own: Path, damage: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(own)
    with pytest.raises(SystemExit, match="2"):
        benchmark.main([str(own)])
    said = capsys.readouterr().err
    assert said.startswith("patches_at_test_time.py: error: ")
    assert message in said


def test_more_patches_than_positions(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        measure(trained, tmp_path / "table.csv", "--n_patches", 3, POSITIONS + 1)
    assert f"n_patches=1841 exceeds the {POSITIONS} positions" in capsys.readouterr().err
    # Before those that could be had are measured.
    assert not (tmp_path / "table.csv").exists()
    with pytest.raises(SystemExit, match="2"):
        benchmark.main([str(trained), "--n_patches", "all"])
    assert "argument --n_patches: 'all' is no number" in capsys.readouterr().err
