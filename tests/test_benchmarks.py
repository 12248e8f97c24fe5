"""The benchmarks run and find what they look for, on settings that take seconds."""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from functools import partial

import psutil
import pytest
import torch
from programs import ROOT, load

from ats.sampling import DESIGNS, Replacement
from ats.training.history import COLUMNS

estimators = load("benchmarks/estimators.py")
SMALL = estimators.Settings(
    side=5, n_patches=3, temperatures=(0.0, 3.0), draws=2, repetitions=200, seed=1
)


@pytest.fixture(scope="module")
def results():
    return estimators.measure_all(SMALL)


def test_table_has_a_row_for_each_design(results):
    table = estimators.markdown(results, SMALL)
    for name in (*estimators.UNBIASED, "published"):
        assert table.count(f"| {name} |") == len(estimators.FEATURES) * len(SMALL.temperatures)
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {8}
    assert "nan" not in table


@pytest.mark.parametrize("features", estimators.FEATURES)
def test_value_error_with_replacement_is_one_nth(results, features):
    for temperature in SMALL.temperatures:
        value = results[features, temperature, "replacement", False].value
        assert value.mean == pytest.approx(1 / SMALL.n_patches, abs=5 * value.error)


def test_exact_gradient_is_that_of_autograd():
    case = estimators.draw_cases(SMALL, "common part", 3.0)[0]
    logits = case.logits.clone().requires_grad_()
    value = logits.softmax(0) @ case.features
    (gradient,) = torch.autograd.grad(value @ case.direction, logits)
    exact_value, exact_gradient, variance = case.exact()
    torch.testing.assert_close(value.detach(), exact_value)
    torch.testing.assert_close(gradient, exact_gradient)
    assert variance > 0


def test_bias_of_centring_with_replacement_is_one_nth():
    """The centred gradient is (N - 1) / N of the exact one; the uncentred one has no bias."""
    settings = estimators.Settings(side=5, n_patches=2, draws=2, repetitions=3000)
    cases = estimators.draw_cases(settings, "independent", 2.0)
    bias = estimators.measure(cases, Replacement(centred=True), settings).squared_bias
    assert bias.mean == pytest.approx(1 / 4, abs=5 * bias.error)
    assert bias.error < 0.05
    bias = estimators.measure(cases, Replacement(), settings).squared_bias
    assert abs(bias.mean) < 5 * bias.error


def test_squared_norm_of_mean_takes_the_noise_out():
    generator = torch.Generator().manual_seed(0)
    norms = []
    for _ in range(300):
        means = 0.1 + torch.randn(estimators.GROUPS, 7, generator=generator, dtype=torch.float64)
        norms.append(estimators.squared_norm_of_mean(means @ means.T, 2.0))
    mean = sum(norm.mean for norm in norms) / len(norms)
    spread = torch.tensor([norm.mean for norm in norms]).std().item()
    assert mean == pytest.approx(7 * 0.01 / 2, abs=4 * spread / math.sqrt(len(norms)))
    # Too large rather than too small.
    errors = torch.tensor([norm.error for norm in norms]).square().mean().sqrt().item()
    assert 0.9 * spread < errors < 1.5 * spread


def test_a_broken_claim_is_found(results):
    key = ("independent", 3.0, "systematic", False)
    wrong = estimators.measure(
        estimators.draw_cases(SMALL, "independent", 3.0), DESIGNS["published"], SMALL
    )
    before = set(estimators.broken_claims(results))
    found = set(estimators.broken_claims({**results, key: wrong})) - before
    assert "systematic is unbiased: independent, temperature 3" in found


def test_table_goes_between_the_markers():
    start, end = estimators.MARKERS
    page = estimators.insert_table(f"above\n{start}\n\nbelow\n", "first")
    assert page == f"above\n{start}\n\nfirst\n\n{end}\n\nbelow\n"
    again = estimators.insert_table(page, "second")
    assert again == page.replace("first", "second")
    with pytest.raises(ValueError, match="no line <!-- table -->"):
        estimators.insert_table("no marker", "table")


pytest.importorskip("lightning")
image_size = load("benchmarks/image_size.py")
linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


def test_images_of_all_sides_hold_the_same_stamps():
    small, large = (
        image_size.make_batches(side, n_images=5, micro_batch=2) for side in (1511, 15013)
    )
    assert [len(batch.target) for batch in small] == [2, 2, 1]
    assert torch.cat([batch.index for batch in small]).tolist() == [0, 1, 2, 3, 4]
    for one, other in zip(small, large, strict=True):
        assert torch.equal(one.x_low, other.x_low)
        assert torch.equal(one.x_high.indptr, other.x_high.indptr)
        assert one.x_high.indices.dtype == torch.int32
        for batch in (one, other):
            for first, last in batch.x_high.indptr.unfold(0, 2, 1).tolist():
                assert (batch.x_high.indices[first:last].diff() > 0).all()
                assert batch.x_high.indices[last - 1] < math.prod(batch.x_high.shape)
    assert small[0].x_high.values.float().mean() == large[0].x_high.values.float().mean()


def test_stamps_stand_where_they_belong():
    stamps = torch.randint(0, 256, (1, 2, 28, 28), generator=torch.Generator().manual_seed(0))
    cells = torch.tensor([[image_size.CELLS + 3, 2]])
    dense = image_size.sparse_images(stamps, cells, 1511).to_dense()[0, 0].long()
    # Cell (1, 3) and cell (0, 2) of 50 by 50 cells.
    rows, columns = 1 * 1511 // 50, 3 * 1511 // 50
    assert torch.equal(dense[rows : rows + 28, columns : columns + 28], stamps[0, 0])
    assert torch.equal(dense[:28, 2 * 1511 // 50 : 2 * 1511 // 50 + 28], stamps[0, 1])
    assert (dense != 0).sum() == (stamps != 0).sum()


def test_too_small_images_are_refused():
    with pytest.raises(ValueError, match="side=1000 must be at least 1400"):
        image_size.make_batches(1000, n_images=1, micro_batch=1)


@linux
def test_a_step_trains():
    training = image_size.Training(1500, batch_size=2, micro_batch=1)
    before = [parameter.detach().clone() for parameter in training.module.parameters()]
    assert training.step().seconds > 0
    after = list(training.module.parameters())
    assert all(not torch.equal(*pair) for pair in zip(before, after, strict=True))
    assert 0 < training.memory().imported <= training.memory().peak


@linux
def test_processes_take_turns_and_are_reported():
    arguments = ["--sides", "1500", "3000", "--batch_size", "2", "--rounds", "1"]
    rows = image_size.measure(image_size.parse(arguments))
    assert [row.side for row in rows] == [1500, 3000]
    assert rows[0].n_nonzeros == rows[1].n_nonzeros > 0
    assert rows[0].time_ratios == [1.0]
    assert all(row.memory.peak > row.memory.imported > 0 for row in rows)
    assert "of the peak is Python with torch" in image_size.report(rows, "cpu")


def test_a_size_that_costs_is_found():
    def row(side: int, peak: int, seconds: float) -> object:
        steps = [image_size.Step(seconds, seconds)] * 3
        memory = image_size.Memory(100, peak)
        return image_size.Row(side, 7, memory, steps, [seconds] * 3, seconds, peak / 500)

    first = row(1500, 500, 1.0)
    assert image_size.broken_claims([first, row(15000, 540, 1.05)], "cpu") == []
    found = image_size.broken_claims([first, row(15000, 5_000_000_000, 1.2)], "cpu")
    assert [text.split(":")[1].split()[0] for text in found] == ["the", "memory", "time"]


gigapixel = load("benchmarks/gigapixel.py")


@linux
def test_images_in_files_of_two_sides_take_turns(tmp_path):
    arguments = [tmp_path, "--kinds", "tiff", "--sides", "1100", "2200", "--rounds", "1"]
    rows = gigapixel.measure(gigapixel.parse(list(map(str, arguments))))
    assert [(row["kind"], row["side"]) for row in rows] == [("tiff", 1100), ("tiff", 2200)]
    assert rows[0]["time_ratio"] == rows[0]["memory_ratio"] == 1
    assert all(row["seconds"] > 0 and row["peak"] > 1 << 27 for row in rows)
    assert "| tiff | 2,200 |" in gigapixel.report(rows)
    assert gigapixel.broken_claims([{**rows[0], "time_ratio": 1.2, "peak": 2e9}])[1].endswith(
        "1.200"
    )


def test_a_formula_is_the_image_in_files(tmp_path):
    image = gigapixel.Tissue((1100, 1100))
    path = gigapixel.write_pyramid(tmp_path / "1100.tif", image, kind="tiff")
    formula, file = gigapixel.FormulaReader("1100.formula"), gigapixel.open_image(path)
    assert formula.layout.shapes == file.layout.shapes
    for level, shape in enumerate(file.layout.shapes):
        everything = formula.read((0, 0), shape, level)
        assert everything.any()
        assert (everything == file.read((0, 0), shape, level)).all()


def test_slow_reading_is_measured_beside_memory(tmp_path, capsys):
    read_ahead = load("benchmarks/read_ahead.py")
    sizes = ["--side", "1100", "--n_patches", "2", "--patch", "16", "--wait", "0.001"]
    try:
        read_ahead.main([str(tmp_path / "a.tif"), *sizes, "--steps", "3", "--rounds", "1"])
    except AssertionError as error:
        assert "times as long as from memory" in str(error)  # noqa: PT017
    said = capsys.readouterr().out
    assert "| from memory |" in said
    assert "| slow, read ahead |" in said


@linux
@pytest.mark.parametrize(
    ("name", "options", "row"),
    [
        (
            "drawing",
            ["--batch_size", "2", "--side", "9", "--rounds", "1"],
            "| des-raj, peaked maps",
        ),
        ("precision", ["--batch_size", "2", "--n_batches", "2", "--rounds", "2"], "| bfloat16 |"),
        ("step_overhead", ["--batch_sizes", "2", "--rounds", "1"], "| batch of 2 |"),
        ("training_loop", ["--n_train", "8", "--batch_size", "4", "--epochs", "1"], " | 0.95 |"),
    ],
)
def test_a_claim_is_measured_and_printed(name, options, row, capsys, monkeypatch):
    """That it holds is asserted by the benchmark, on a quiet machine."""
    benchmark = load(f"benchmarks/{name}.py")
    # Not for the tests after this one.
    monkeypatch.setattr(benchmark, "keep_freed_memory", lambda: None, raising=False)
    with contextlib.suppress(AssertionError):
        benchmark.main(options)
    assert row in capsys.readouterr().out


def test_patches_are_read_copied_and_indexed():
    reading = load("benchmarks/patch_reading.py")
    case = reading.Case((2, 3, 40, 50), 4, 16)
    found = reading.measure(case, torch.uint8, "cpu", 1, "small")
    assert found.label == "small"
    assert min(found.seconds, found.copy_ratio, found.indexing_ratio) > 0


def test_both_steps_reach_both_networks():
    steps = load("benchmarks/step_overhead.py").Steps(1500, 2, "cpu")
    for step in (steps.networks_alone, steps.with_sampling):
        step()
        gradients = [parameter.grad for parameter in steps.sampling.parameters()]
        assert all(gradient is not None and gradient.any() for gradient in gradients[:-1])


@pytest.fixture
def stage(tmp_path):
    """A stage's folder, and a script that writes down how it was called."""
    folder, data = tmp_path / "1-read", tmp_path / "data"
    for path in (folder, data):
        path.mkdir()
    (data / "gt.txt").write_text("signs")
    table = f"{','.join(COLUMNS)}\n{','.join('7' for _ in COLUMNS)}\n"
    script = tmp_path / "script.py"
    script.write_text(
        "import pathlib, sys, time\n"
        f"folder = pathlib.Path({str(folder)!r})\n"
        f"(folder / 'history.csv').write_text({table!r})\n"
        "print(*sys.argv[1:], file=(folder / 'calls').open('a'))\n"
        "memory = bytearray(900_000_000) if (folder / 'wait').exists() else b''\n"
        "(folder / 'began').touch()\n"
        "while (folder / 'wait').exists(): time.sleep(0.01)\n"
    )
    return folder, data, script


def test_a_stage_of_other_options_is_not_taken_for_this_one(stage, tmp_path):
    scenes = load("benchmarks/street_scenes.py")
    run = partial(scenes.run, clock=scenes.Clock(None))
    folder, data, script = stage
    weights = [tmp_path / name for name in ("first", "moved", "other")]
    for path, content in zip(weights, ("7", "7", "8"), strict=True):
        path.write_text(content)
    given = ["--scale", "0.3"]
    # A command that fails has made nothing that could be of its options.
    with pytest.raises(SystemExit, match="failed"):
        run([str(tmp_path / "no-script"), str(data)], ["--scale", "x"], None, folder)
    rows, cost = run([str(script), str(data)], given, weights[0], folder)
    assert rows == [dict.fromkeys(COLUMNS, 7)]
    assert cost.peak > 2**20
    moved = data.rename(tmp_path / "elsewhere")
    assert run([str(script), str(moved)], given, weights[1], folder) == (rows, cost)
    with pytest.raises(SystemExit, match=r"other options than --scale 0.5 \(--scale 0.3\)"):
        run([str(script), str(moved)], ["--scale", "0.5"], weights[0], folder)
    for start in (weights[2], None):
        with pytest.raises(SystemExit, match="from other weights"):
            run([str(script), str(moved)], given, start, folder)
    (moved / "gt.txt").write_text("other signs")
    with pytest.raises(SystemExit, match="or on other data"):
        run([str(script), str(moved)], given, weights[0], folder)
    called = f"{data} --scale 0.3 --start {weights[0]} --resume\n"
    assert (folder / "calls").read_text() == called


@pytest.mark.parametrize("group", [False, True])
def test_a_stage_that_is_ended_ends_its_training_and_counts_all_parts(stage, group):
    folder, data, script = stage
    (folder / "wait").touch()
    given = [str(script), str(data)], [], None
    code = (
        "from pathlib import Path; from street_scenes import Clock, run\n"
        f"print(run(*{given!r}, Path({str(folder)!r}), Clock(None))[1].peak)"
    )

    def begin():
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        own = {"cwd": ROOT / "benchmarks", "start_new_session": True}
        return subprocess.Popen([sys.executable, "-c", code], **own, **pipes)

    process = begin()
    deadline = time.monotonic() + 60
    while not (folder / "began").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    children = psutil.Process(process.pid).children()
    assert len(children) == 1
    # As service managers do it: to the training, too, and once more.
    for _ in range(2):
        os.killpg(process.pid, signal.SIGTERM) if group else process.terminate()
    assert "KeyboardInterrupt" in process.communicate(timeout=60)[1]
    assert not children[0].is_running()
    first = json.loads((folder / "cost.json").read_text())
    assert not first["finished"]
    (folder / "wait").unlink()
    # The rest took less memory and little time, but it is the whole that counts.
    assert int(begin().communicate(timeout=60)[0]) == first["peak"]
    last = json.loads((folder / "cost.json").read_text())
    assert last["finished"]
    assert last["seconds"] > first["seconds"]


@pytest.mark.parametrize("name", ["street_scenes", "learning_curves", "results"])
def test_a_seed_is_not_taken_for_the_number_of_seeds(name, tmp_path, capsys):
    main = load(f"benchmarks/{name}.py").main
    folders = [] if name == "results" else [str(tmp_path), str(tmp_path)]
    for given, said in (
        (["--seeds", "0" if folders else "-1"], "argument --seeds"),
        (["--seed", "5"], "say with --seeds which there are"),
        (["--seed=5"], "say with --seeds which there are"),
    ):
        with pytest.raises(SystemExit):
            main([*folders, *given])
        assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("street_scenes", "--n_patches"),
        ("street_scenes", "--composite"),
        ("learning_curves", "--design"),
        ("learning_curves", "--cent"),
    ],
)
def test_what_trainings_differ_in_is_not_set_for_all(name, option, tmp_path, capsys):
    given = [str(tmp_path), str(tmp_path / "out"), f"{option}=3"]
    with pytest.raises(SystemExit):
        load(f"benchmarks/{name}.py").main(given)
    assert "is what trainings differ in here" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_whole_images_have_no_patches(tmp_path, capsys):
    given = ["--network", "full", str(tmp_path), str(tmp_path / "out"), "--n_patches", "3"]
    with pytest.raises(SystemExit):
        load("benchmarks/whole_image.py").main(given)
    assert "--n_patches is of attention sampling" in capsys.readouterr().err


def test_memory_of_a_run_that_trained_nothing_is_unknown(stage):
    """A record that was lost with the program alone, whose training went on to its end."""
    scenes = load("benchmarks/street_scenes.py")
    folder, data, script = stage
    given = [str(script), str(data)], [], None, folder, scenes.Clock(None)
    assert scenes.run(*given)[1].peak > 2**20
    (folder / "cost.json").unlink()
    rows, cost = scenes.run(*given)
    assert cost.peak == 0
    rows = [{**row, "test_pointing": 1.0} for row in rows]
    known = scenes.Cost(2**20, 1.0)
    assert scenes.row_of("whole", [(rows, known), (rows, known)]).endswith(" | 1 |")
    assert scenes.row_of("whole", [(rows, known), (rows, cost)]).endswith("| – |")


def test_a_folder_without_street_scenes(tmp_path, capsys):
    with pytest.raises(SystemExit):
        load("benchmarks/street_scenes.py").main([str(tmp_path), str(tmp_path / "out")])
    assert f"dataset {tmp_path} lacks gt.txt" in capsys.readouterr().err


def test_a_folder_without_results(tmp_path, capsys):
    (tmp_path / "results").mkdir()
    with pytest.raises(SystemExit):
        load("benchmarks/results.py").main(["--docs", str(tmp_path)])
    assert f"docs={tmp_path} has no folder figures" in capsys.readouterr().err


def test_what_is_no_want_of_memory_is_not_taken_for_it(tmp_path, capsys, monkeypatch):
    whole = load("benchmarks/against_whole.py")
    with pytest.raises(SystemExit):
        whole.main(["--sides", "1500", "40"])
    assert "sides=40: take 1400 pixels or more" in capsys.readouterr().err
    # A real process, which does not find the modules beside it.
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    with pytest.raises(SystemExit, match="attention sampling came to no end"):
        whole.main(["--sides", "1500"])


@pytest.mark.parametrize(
    "name",
    [
        "against_whole",
        "drawing",
        "image_size",
        "patch_reading",
        "precision",
        "step_overhead",
        "training_loop",
    ],
)
def test_a_device_that_is_not_there(name, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    main = load(f"benchmarks/{name}.py").main
    for device, said in (("cuda", "torch finds no NVIDIA GPU here"), ("gpu", "must be cpu or")):
        with pytest.raises(SystemExit):
            main(["--device", device])
        assert said in capsys.readouterr().err
