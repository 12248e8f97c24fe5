"""The program of the results page: trainings are stored, resumed, and drawn."""

import json
import shutil
import signal
import threading
import time
from pathlib import Path
from statistics import mean

import psutil
import pytest
from programs import ROOT, load, rows

results = load("benchmarks/results.py")
SMALL = ("--patch_size", "24x24", "--n_patches", "3", "--batch_size", "8", "--epochs", "2")
DATA = "--digits optdigits --no_noise --n_train 16 --n_test 8 --width 200 --height 230 --scale 0.2"


@pytest.fixture(autouse=True)
def tiny() -> None:
    """An experiment of seconds beside the real ones."""
    results.EXPERIMENTS["tiny"] = results.Experiment(
        "Tiny", DATA, {"run": "--lr 0.002"}, {"x": 0.5}
    )
    results.RUNS["tiny-run"] = ("tiny", "--lr 0.002")


def folders(tmp_path: Path) -> list[str]:
    docs = tmp_path / "docs"
    for name in ("results", "figures"):
        (docs / name).mkdir(parents=True, exist_ok=True)
    return ["--docs", str(docs), "--work", str(tmp_path / "work")]


def test_trainings_are_stored_once(tmp_path: Path) -> None:
    given = [*folders(tmp_path), "--train", "tiny-run", "--seeds", "0", "3", *SMALL]
    results.main(given)
    docs, work = tmp_path / "docs", tmp_path / "work"
    for seed in (0, 3):
        kept = (docs / "results" / f"tiny-run-{seed}.csv").read_bytes()
        assert kept == (work / f"tiny-run-{seed}" / "history.csv").read_bytes()
        record = json.loads((docs / "results" / f"tiny-run-{seed}.json").read_text())
        assert f"--lr 0.002 --seed {seed} --patch_size 24x24" in record["command"]
        assert record["data"].endswith(DATA)
        assert record["peak_mib"] > 100
    assert (docs / "figures" / "tiny.png").stat().st_size > 1000
    last = [rows(docs / "results" / f"tiny-run-{seed}.csv")[-1]["test_error"] for seed in (0, 3)]
    each = " ".join(f"{float(error):.3f}" for error in last)
    average = mean(map(float, last))
    page = (docs / "results" / "summary.md").read_text()
    assert f"| tiny-run | 2 | 2 | {average:.4f} | {each} |" in page
    patches = rows(docs / "results" / "tiny-run-3-patches.csv")
    assert [row["n_patches"] for row in patches] == ["5", "10", "20", "50", "exact"]
    wanted = mean(
        float(rows(docs / "results" / f"tiny-run-{seed}-patches.csv")[1]["draws_4_error"])
        for seed in (0, 3)
    )
    lines = (docs / "results" / "patches.md").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("| tiny-run | 10 |")]
    assert line.endswith(f"| {wanted:.4f} |")
    # What is there is not trained again, but stored again where it was lost.
    before = (work / "tiny-run-0" / "checkpoint.ckpt").stat().st_mtime_ns
    (docs / "results" / "tiny-run-0.json").unlink()
    results.main(given)
    assert (work / "tiny-run-0" / "checkpoint.ckpt").stat().st_mtime_ns == before
    assert json.loads((docs / "results" / "tiny-run-0.json").read_text())["finished"]
    with pytest.raises(SystemExit, match=r"tiny-run-0 holds a run of other options \(python"):
        results.main([*given, "--lr", "0.1"])


def test_peaks_need_the_training_that_they_start_from(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"mnist-1500-long-0/weights_029.safetensors is not there"):
        results.main([*folders(tmp_path), "--train", "mnist-1500-peaks", "--seeds", "0"])
    assert not (tmp_path / "work").exists()


def test_a_folder_with_a_blank_is_one_option() -> None:
    start = "my runs/mnist-1500-long-2/weights_029.safetensors"
    given = results.options_of("mnist-1500-peaks", Path("my runs"), 2)
    assert given == ["--recipe", "peaks", "--start", start]


def test_tables_of_other_numbers_of_patches_are_compared_where_they_can_be(tmp_path: Path) -> None:
    for seed, numbers in ((0, (5, 10, "exact")), (1, (10, 50, "exact"))):
        lines = [f"{number},{seed}" for number in numbers]
        table = tmp_path / f"tiny-run-{seed}-patches.csv"
        table.write_text("\n".join(["n_patches,peaks_error", *lines]))
    lines = results.patches_summary(tmp_path).splitlines()[2:]
    assert [line.split("|")[2].strip() for line in lines] == ["10", "exact"]
    assert "| 0.5000 |" in lines[0]


def test_options_of_no_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        results.main([*folders(tmp_path), "--tain", "tiny-run"])
    assert "unrecognized arguments: --tain tiny-run; those of mnist.py" in capsys.readouterr().err


def test_a_stopped_run_goes_on(tmp_path: Path) -> None:
    history = tmp_path / "work" / "tiny-run-0" / "history.csv"
    given = [*folders(tmp_path), "--train", "tiny-run", "--seeds", "0", *SMALL[:-1], "25"]

    def stop() -> None:
        # Before that a run begins anew.
        while not (history.parent / "checkpoint.ckpt").exists():
            time.sleep(0.01)
        while not stopped.is_set():
            # Again if it fell into code that swallows it, such as a destructor.
            for process in psutil.Process().children():
                process.send_signal(signal.SIGINT)
            stopped.wait(5)

    stopped = threading.Event()
    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(SystemExit) as caught:
        results.main(given)
    stopped.set()
    thread.join()
    assert caught.value.code == 130
    done = rows(history)
    assert 0 < len(done) < 25
    # The last row may be of an epoch that has no checkpoint yet.
    done = done[:-1] or done
    assert not (tmp_path / "docs" / "results" / "tiny-run-0.csv").exists()
    results.main(given)
    after = rows(tmp_path / "docs" / "results" / "tiny-run-0.csv")
    assert after[: len(done)] == done
    assert len(after) == 25
    record = json.loads((tmp_path / "docs" / "results" / "tiny-run-0.json").read_text())
    assert record["seconds"] == round(sum(float(row["seconds"]) for row in after))


def test_a_training_is_stored_before_it_is_measured(tmp_path: Path) -> None:
    table = tmp_path / "work" / "tiny-run-0" / "patches.csv"
    table.parent.mkdir(parents=True)
    table.write_text("of,something,else\n")
    given = [*folders(tmp_path), "--train", "tiny-run", "--seeds", "0", *SMALL]
    stored = tmp_path / "docs" / "results" / "tiny-run-0.csv"
    former = stored.with_name("tiny-run-0-patches.csv")
    former.write_text("of,another,network\n")
    with pytest.raises(SystemExit):
        results.main(given)
    assert not former.exists()
    assert stored.read_bytes() == table.with_name("history.csv").read_bytes()
    assert not json.loads(stored.with_suffix(".json").read_text())["finished"]


def test_the_clock_stops_what_runs_and_what_would() -> None:
    clock = results.Clock(0.02)
    # Python itself, which Ctrl-C ends with a status of its own.
    wait = ["-c", "import time\ntry: time.sleep(60)\nexcept KeyboardInterrupt: raise SystemExit(3)"]
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            clock.run(wait)
    assert results.Clock(None).run(["-c", "bytearray(50_000_000)"]) > 50_000_000


def test_a_failed_training_is_said(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"mnist\.py.*failed"):
        results.main([*folders(tmp_path), "--train", "tiny-run", "--batch_size", "999"])


def test_the_kept_tables_make_the_kept_summary(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs" / "results", tmp_path / "docs" / "results")
    results.main(folders(tmp_path))
    for page in ("summary.md", "patches.md"):
        kept = (ROOT / "docs" / "results" / page).read_text()
        assert (tmp_path / "docs" / "results" / page).read_text() == kept
    for name in results.EXPERIMENTS:
        if list((ROOT / "docs" / "results").glob(f"{name}-*.csv")):
            assert (tmp_path / "docs" / "figures" / f"{name}.png").exists()
