"""The training script as a user runs it: real processes, really killed."""

import contextlib
import errno
import fcntl
import json
import os
import platform
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from programs import ROOT, command, load, make_digits, rows, run
from safetensors.torch import load_file
from torch import nn

from ats.datasets.megapixel_mnist import MegapixelMNIST
from ats.files import atomic_folder, locked
from ats.training.averaged import Averaged
from ats.training.batches import EpochBatches, default_micro_batch, image_generators
from ats.training.checkpoint import AtomicCheckpointIO
from ats.training.folder import open_run
from ats.training.history import COLUMNS
from ats.training.report import exit_status
from ats.training.run import fit

# The learning rate rises from step to step, so that one that was not taken up again would show.
SMALL = ("--patch_size", "24x24", "--n_patches", "3", "--batch_size", "8", "--warmup", "6")
EPOCHS = 4


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_digits(tmp_path_factory.mktemp("data"), n_train=32, n_test=11)


@pytest.fixture(scope="module")
def uninterrupted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("uninterrupted")
    done = run("mnist.py", data, output, *SMALL, "--epochs", str(EPOCHS))
    assert "n_train: 32" in done.stdout
    assert "Conv2d" in done.stdout
    last = history(output)[-1]
    assert f"Test loss: {float(last['test_loss']):.4f}" in done.stdout
    assert f"Test error: {float(last['test_error']):.4f}" in done.stdout
    return output


def history(output: Path) -> list[dict[str, str]]:
    return rows(output / "history.csv")


def weights(output: Path, epoch: int = EPOCHS - 1) -> dict[str, torch.Tensor]:
    return load_file(output / f"weights_{epoch:03d}.safetensors")


def assert_same_up_to_rounding(
    wanted: dict[str, torch.Tensor], got: dict[str, torch.Tensor]
) -> None:
    """Sums in another order differ by rounding, in all but one weight by very little."""
    for name, tensor in wanted.items():
        # A softmax does not see the bias of its logits: its gradient is nothing but rounding, which
        # Adam scales up.
        free = name == "sampling.attention.4.bias"
        torch.testing.assert_close(got[name], tensor, rtol=1e-4, atol=1e-4 if free else 2e-6)


def test_everything_is_written(uninterrupted: Path) -> None:
    rows = history(uninterrupted)
    assert [int(row["epoch"]) for row in rows] == list(range(EPOCHS))
    assert all(float(row["images_per_second"]) > 0 for row in rows)
    names = {path.name for path in uninterrupted.iterdir()}
    assert {"curves.png", "image.png", "checkpoint.ckpt", "parameters.json"} <= names
    for epoch in range(EPOCHS):
        each = {f"attention_{epoch:03d}.{kind}" for kind in ("png", "npy")}
        each |= {f"patches_{epoch:03d}_{n:02d}.png" for n in range(3)}
        each.add(f"weights_{epoch:03d}.safetensors")
        assert each <= names
    # Those in between are drawn where epochs take longer than figures.
    assert {"overview_000.png", f"overview_{EPOCHS - 1:03d}.png"} <= names
    assert not [name for name in names if "tmp" in name]
    attention = np.load(uninterrupted / "attention_000.npy")
    assert attention.shape == (46, 40)
    assert attention.sum() == pytest.approx(1, abs=1e-4)
    parameters = json.loads((uninterrupted / "parameters.json").read_text())
    assert parameters["arguments"]["batch_size"] == 8
    assert parameters["data"]["n_train"] == 32


def test_a_killed_run_resumes_to_the_same_bits(
    data: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    given = command("mnist.py", data, tmp_path, *SMALL, "--epochs", str(EPOCHS))
    process = subprocess.Popen(given, cwd=ROOT, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (tmp_path / "checkpoint.ckpt").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    # At some moment of the second epoch: a fast machine would do all of them in a second.
    moment = time.monotonic() + random.random()
    while time.monotonic() < moment and not (tmp_path / "weights_001.safetensors").exists():
        time.sleep(0.01)
    (tmp_path / ".curves.0123abcd.tmp.png").touch()
    (tmp_path / ".of-another-program.tmp").touch()
    left = (tmp_path / "examples" / "00", tmp_path / "data")
    for folder in left:
        folder.mkdir(parents=True)
        (folder / ".image.0123abcd.tmp.png").touch()
    (tmp_path / ".folder.0123abcd.tmp").mkdir()
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / f"weights_{EPOCHS - 1:03d}.safetensors").exists()
    run("mnist.py", data, tmp_path, *SMALL, "--epochs", str(EPOCHS), "--resume")
    wanted, got = weights(uninterrupted), weights(tmp_path)
    assert wanted.keys() == got.keys()
    assert all(torch.equal(wanted[name], got[name]) for name in wanted)
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob(".*.tmp*")}
    # What lies below may be another's, who is writing it.
    others = {".of-another-program.tmp", ".folder.0123abcd.tmp", "data/.image.0123abcd.tmp.png"}
    assert found == others
    assert [row["test_loss"] for row in history(tmp_path)] == [
        row["test_loss"] for row in history(uninterrupted)
    ]


def test_a_folder_is_one_training_s_at_a_time(data: Path, tmp_path: Path) -> None:
    given = command("mnist.py", data, tmp_path, *SMALL, "--epochs", "5000")
    process = subprocess.Popen(given, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "checkpoint.ckpt").exists():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.01)
        more = ("--epochs", "1000", "--resume")
        other = run("mnist.py", data, tmp_path, *SMALL, *more, check=False)
        assert other.returncode == 2
        assert f"output {tmp_path} is in use by another process" in other.stderr
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
    # Whoever was killed keeps nothing locked.
    rows = len(history(tmp_path)) + 1
    run("mnist.py", data, tmp_path, *SMALL, "--epochs", str(rows), "--resume")


def test_file_systems_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    number = errno.ENOLCK
    with locked(tmp_path / "lock", "held"):
        pass
    number = errno.EIO
    with pytest.raises(OSError, match="no locks"), locked(tmp_path / "lock", "held"):
        pass


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    io, path = AtomicCheckpointIO(), tmp_path / "a.ckpt"
    io.save_checkpoint({"tensor": torch.zeros(2)}, path)
    before = path.read_bytes()
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    # No disk, but files that may not grow: the same errors.
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, former[1]))
    try:
        with pytest.raises(OSError, match=r"a.ckpt cannot be written \(.*\); make room"):
            io.save_checkpoint({"tensor": torch.zeros(20_000)}, path)
        with (
            pytest.raises(OSError, match=r"made cannot be written \(.*\); make room"),
            atomic_folder(tmp_path / "made") as folder,
        ):
            (folder / "file").write_bytes(bytes(20_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.ckpt"]


def test_sampled_pictures_are_those_of_what_is_measured(data: Path, tmp_path: Path) -> None:
    given = (*SMALL, "--inference", "sampled", "--epochs")
    run("mnist.py", data, tmp_path / "whole", *given, "2")
    run("mnist.py", data, tmp_path / "parts", *given, "1")
    run("mnist.py", data, tmp_path / "parts", *given, "2", "--resume")
    for number in range(3):
        name = f"patches_001_{number:02d}.png"
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


def test_batch_norm_keeps_its_devices(data: Path, tmp_path: Path) -> None:
    given = (*SMALL, "--features", "residual", "--accelerator", "cpu", "--micro_batch", "4")
    run("mnist.py", data, tmp_path, *given, "--epochs", "1")
    more = (*given, "--epochs", "2", "--resume", "--devices", "2")
    done = run("mnist.py", data, tmp_path, *more, check=False)
    assert done.returncode == 2
    assert "devices of batch norm: 1 then, 2 now" in done.stderr


def test_a_start_has_the_same_prior(data: Path, uninterrupted: Path, tmp_path: Path) -> None:
    start = ("--start", uninterrupted / "weights_000.safetensors", "--prior", "none")
    done = run("mnist.py", data, tmp_path, *SMALL, *start, check=False)
    assert done.returncode == 2
    assert "was trained with --prior contrast, this run has none" in done.stderr


def test_a_training_starts_from_weights(data: Path, uninterrupted: Path, tmp_path: Path) -> None:
    first = uninterrupted / "weights_000.safetensors"
    # Steps so small that they change nothing to speak of.
    given = (*SMALL, "--epochs", "1", "--lr", "1e-12")
    run("mnist.py", data, tmp_path / "started", *given, "--start", first)
    wanted, got = load_file(first), weights(tmp_path / "started", 0)
    for name, tensor in wanted.items():
        torch.testing.assert_close(got[name], tensor, rtol=0, atol=1e-6)
    gone = tmp_path / "gone"
    done = run("mnist.py", data, tmp_path / "other", *given, "--start", gone, check=False)
    assert done.returncode == 2
    assert f"start={gone} is no file" in done.stderr
    # It goes on from its own weights, wherever those are now.
    more = (*SMALL, "--epochs", "2", "--lr", "1e-12", "--start", gone, "--resume")
    run("mnist.py", data, tmp_path / "started", *more)


def test_training_on_peaks_leaves_the_attention(data: Path, tmp_path: Path) -> None:
    small = (*SMALL, "--epochs", "1", "--classifier", "votes")
    run("mnist.py", data, tmp_path / "first", *small)
    first = tmp_path / "first" / "weights_000.safetensors"
    # The networks of that run, and what would move the attention by itself; on two devices, which
    # wait for every gradient that they expect.
    given = (*small, "--start", first, "--recipe", "peaks", "--average", "0")
    given += ("--attention", "published", "--features", "published")
    given += ("--regularizer_strength", "1", "--micro_batch", "4")
    run("mnist.py", data, tmp_path / "peaks", *given, "--accelerator", "cpu", "--devices", "2")
    wanted, got = load_file(first), weights(tmp_path / "peaks", 0)
    for name, tensor in wanted.items():
        assert torch.equal(got[name], tensor) == name.startswith("sampling.attention."), name


def test_what_peaks_hold_learns_again_afterwards(data: Path, tmp_path: Path) -> None:
    script = load("scripts/mnist.py")
    given = [str(data), str(tmp_path / "run"), *SMALL, "--epochs", "2", "--accelerator", "cpu"]
    given += ["--classifier", "votes", "--design", "peaks", "--start", "weights"]
    args = script.parse(given)
    sets = [MegapixelMNIST(data, train=train) for train in (True, False)]
    model = script.build_model(args, 10)
    norm = torch.nn.BatchNorm2d(1)
    model.sampling.attention.append(norm)
    before = [parameter.clone() for parameter in model.sampling.attention.parameters()]
    shown = (sets[1][0], sets[1].pixels(0))
    fit(model, *sets, args, sets[0].parameters, [str(digit) for digit in range(10)], picture=shown)
    assert "train_estimator_variance" not in rows(tmp_path / "run" / "history.csv")[0]
    assert norm.num_batches_tracked == 0
    for parameter, former in zip(model.sampling.attention.parameters(), before, strict=True):
        assert torch.equal(parameter, former)
        assert parameter.requires_grad
    assert norm.training == model.training


def test_two_processes_equal_one(data: Path, uninterrupted: Path, tmp_path: Path) -> None:
    shared = ("--accelerator", "cpu", "--devices", "2", "--micro_batch", "4")
    run("mnist.py", data, tmp_path, *SMALL, "--epochs", "2", *shared)
    assert_same_up_to_rounding(weights(uninterrupted, 1), weights(tmp_path, 1))
    for row_one, row_two in zip(history(uninterrupted), history(tmp_path), strict=False):
        for column in ("train_loss", "test_loss", "test_error"):
            assert float(row_two[column]) == pytest.approx(float(row_one[column]), rel=1e-4)


def test_micro_batches_change_nothing(data: Path, uninterrupted: Path, tmp_path: Path) -> None:
    run("mnist.py", data, tmp_path, *SMALL, "--epochs", "1", "--micro_batch", "2")
    assert_same_up_to_rounding(weights(uninterrupted, 0), weights(tmp_path, 0))


def test_the_average_follows_the_weights() -> None:
    torch.manual_seed(0)
    model = nn.BatchNorm1d(2)
    averaged = Averaged(model, 0.9)
    wanted = model.weight.detach().clone()
    for step in range(200):
        nn.init.normal_(model.weight)
        model(torch.randn(4, 2))
        averaged.follow(model)
        share = min(0.9, (1 + step) / (10 + step))
        wanted = share * wanted + (1 - share) * model.weight.detach()
        torch.testing.assert_close(averaged.model.weight, wanted)
    assert int(averaged.model.num_batches_tracked) == 200  # type: ignore[arg-type]
    assert not averaged.model.weight.requires_grad  # type: ignore[union-attr]


def test_averaged_weights_are_measured_kept_and_resumed(
    data: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    given = (*SMALL, "--average", "0.9")
    run("mnist.py", data, tmp_path / "whole", *given, "--epochs", "2")
    # The training itself is the same.
    one, other = history(tmp_path / "whole"), history(uninterrupted)
    assert [row["train_loss"] for row in one] == [row["train_loss"] for row in other[:2]]
    assert one[1]["test_loss"] != other[1]["test_loss"]
    state = torch.load(tmp_path / "whole" / "checkpoint.ckpt", weights_only=True)["state_dict"]
    kept = weights(tmp_path / "whole", 1)
    for name, tensor in kept.items():
        assert torch.equal(tensor, state[f"averaged.model.{name}"]), name
    assert any(not torch.equal(kept[name], state[f"model.{name}"]) for name in kept)
    run("mnist.py", data, tmp_path / "parts", *given, "--epochs", "1")
    run("mnist.py", data, tmp_path / "parts", *given, "--epochs", "2", "--resume")
    again = weights(tmp_path / "parts", 1)
    assert all(torch.equal(kept[name], again[name]) for name in kept)


def test_learning_curves_of_designs(data: Path, tmp_path: Path) -> None:
    script = ROOT / "benchmarks" / "learning_curves.py"
    designs = ("--designs", "murthy, centred", "published", "--seeds", "1")
    given = [sys.executable, script, data, tmp_path, *designs, *SMALL, "--epochs", "1"]
    done = subprocess.run(given, capture_output=True, text=True, cwd=ROOT, check=True)
    for label in ("murthy-centred", "published"):
        error = float(history(tmp_path / f"{label}-0")[-1]["test_error"])
        assert f"| {label.replace('-', ', ')} |" in done.stdout
        assert f"| {error:.3f} |" in done.stdout
    assert (tmp_path / "designs.png").stat().st_size > 1000


def test_a_folder_with_a_run_is_not_overwritten(data: Path, uninterrupted: Path) -> None:
    before = (uninterrupted / "history.csv").read_bytes()
    done = run("mnist.py", data, uninterrupted, *SMALL, check=False)
    assert done.returncode == 2
    assert "holds a run already; pass --resume" in done.stderr
    done = run("mnist.py", data, uninterrupted, *SMALL, "--lr", "0.1", "--resume", check=False)
    assert done.returncode == 2
    assert "made with other parameters (lr: 0.001 then, 0.1 now)" in done.stderr
    assert "Traceback" not in done.stderr
    assert (uninterrupted / "history.csv").read_bytes() == before


def test_damaged_tables_are_named(data: Path, uninterrupted: Path, tmp_path: Path) -> None:
    given = (*SMALL, "--epochs", str(EPOCHS), "--resume")
    for name, content in (("history.csv", "epoch\n1\n"), ("parameters.json", "[]")):
        output = tmp_path / name
        shutil.copytree(uninterrupted, output)
        (output / name).write_text(content)
        done = run("mnist.py", data, output, *given, check=False)
        assert done.returncode == 2
        assert "damaged" in done.stderr
        assert name in done.stderr
        assert "Traceback" not in done.stderr


def test_resuming_a_finished_run_reports_it(data: Path, uninterrupted: Path) -> None:
    done = run("mnist.py", data, uninterrupted, *SMALL, "--epochs", str(EPOCHS), "--resume")
    last = history(uninterrupted)[-1]
    assert f"Test error: {float(last['test_error']):.4f}" in done.stdout


def test_clear_errors(data: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    cases = [
        ((tmp_path / "empty", tmp_path / "a"), "empty"),
        ((data, tmp_path / "file"), "cannot be written"),
        ((data, tmp_path / "b", "--batch_size", "64"), "batch_size=64 exceeds the 32 images"),
        (
            (data, tmp_path / "c", "--batch_size", "8", "--n_patches", "2000"),
            "n_patches=2000 exceeds the 1840 positions",
        ),
        ((data, tmp_path / "d", "--batch_size", "6", "--micro_batch", "4"), "must be a multiple"),
        ((data, tmp_path / "e", "--patch_size", "0x5"), "must be HEIGHTxWIDTH"),
        ((data, tmp_path / "f", "--epochs", "0"), "must be at least 1"),
    ]
    for arguments, message in cases:
        done = run("mnist.py", *arguments, check=False)
        assert done.returncode == 2, done.stdout + done.stderr
        assert message in done.stderr
        assert "Traceback" not in done.stderr


def test_ctrl_c_ends_the_run_and_it_can_be_resumed(data: Path, tmp_path: Path) -> None:
    given = command("mnist.py", data, tmp_path, *SMALL, "--epochs", "400")
    process = subprocess.Popen(
        given,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        # Tests that run in the background of a shell inherit an ignored Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "checkpoint.ckpt").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for _ in range(10):
        # Pressed again if it fell into code that swallows it, such as a destructor.
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=6)
            break
    _, errors = process.communicate(timeout=1)
    assert process.returncode == 130
    assert b"--resume" in errors
    assert b"Traceback" not in errors


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'owned'}",)

    torch.save({"state": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match="cannot be read"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "evil.ckpt")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("state", [{"a": 1}, [1, 2], {"state_dict": {}, "epoch": 3}])
def test_a_checkpoint_of_something_else(tmp_path: Path, state: object) -> None:
    torch.save(state, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"other.ckpt is none of a run \(no .*another folder"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "other.ckpt")


PARAMETERS = {"script": "mnist.py", "arguments": {"epochs": 3, "lr": 1.0}, "data": {}}


def test_a_data_set_is_no_output_folder(data: Path) -> None:
    before = (data / "parameters.json").read_bytes()
    with pytest.raises(ValueError, match=r"parameters.json that is not of a run.*another folder"):
        open_run(data, PARAMETERS, resume=False)
    assert (data / "parameters.json").read_bytes() == before


def test_a_run_that_finished_nothing_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / "parameters.json").write_text(json.dumps(PARAMETERS))
    assert open_run(tmp_path, PARAMETERS, resume=False) is None


def test_weights_without_their_run_are_not_taken_for_the_new_one_s(tmp_path: Path) -> None:
    # Killed before its first checkpoint.
    (tmp_path / "weights_000.safetensors").touch()
    assert open_run(tmp_path, PARAMETERS, resume=True) is None
    (tmp_path / "weights_002.safetensors").touch()
    with pytest.raises(ValueError, match=r"holds weights_002.safetensors of a run without its"):
        open_run(tmp_path, PARAMETERS, resume=False)


def test_a_run_goes_on_without_the_file_that_it_started_from(tmp_path: Path) -> None:
    arguments = {"epochs": 3, "lr": 1.0}
    former = PARAMETERS | {"arguments": {**arguments, "start": "there"}}
    (tmp_path / "parameters.json").write_text(json.dumps(former))
    (tmp_path / "checkpoint.ckpt").touch()
    now = PARAMETERS | {"arguments": {**arguments, "start": None}}
    assert open_run(tmp_path, now, resume=True) is not None
    # The record of it stays.
    assert now["arguments"]["start"] == "there"


def test_parameters_without_arguments_are_other_parameters(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.ckpt").touch()
    (tmp_path / "parameters.json").write_text("{}")
    now = PARAMETERS | {"arguments": {"epochs": 3, "lr": 1.0, "start": "here"}}
    with pytest.raises(ValueError, match=r"made with other parameters \(lr: None then, 1.0 now"):
        open_run(tmp_path, now, resume=True)


def test_a_run_is_not_shortened(tmp_path: Path) -> None:
    (tmp_path / "parameters.json").write_text(json.dumps(PARAMETERS))
    for name in ("checkpoint.ckpt", *(f"weights_{epoch:03d}.safetensors" for epoch in range(3))):
        (tmp_path / name).touch()
    assert open_run(tmp_path, PARAMETERS, resume=True) == tmp_path / "checkpoint.ckpt"
    shorter = PARAMETERS | {"arguments": {"epochs": 2, "lr": 1.0}}
    with pytest.raises(ValueError, match=r"epochs=2, but the run .* has finished more"):
        open_run(tmp_path, shorter, resume=True)


def test_damaged_parameters_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.ckpt").touch()
    for damaged in ('{"arguments": 3, "data": null}', "[1]", "{"):
        (tmp_path / "parameters.json").write_text(damaged)
        with pytest.raises(ValueError, match=r"parameters.json is missing or damaged"):
            open_run(tmp_path, PARAMETERS, resume=True)


def test_a_diverged_run_keeps_its_former_checkpoint(data: Path, tmp_path: Path) -> None:
    # One step an epoch: the first ruins the weights, and no loss is measured after it.
    given = (data, tmp_path, *SMALL[:4], "--batch_size", "32", "--lr", "1e30", "--epochs", "1")
    done = run("mnist.py", *given, check=False)
    assert done.returncode == 2
    assert "diverged" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("weights_*"))
    assert not (tmp_path / "checkpoint.ckpt").exists()


def test_a_history_without_its_rows(uninterrupted: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "copy"
    shutil.copytree(uninterrupted, output)
    (output / "history.csv").write_text(",".join(COLUMNS) + "\n")
    more = (*SMALL, "--epochs", str(EPOCHS + 1), "--resume")
    done = run("mnist.py", data, output, *more, check=False)
    assert done.returncode == 2
    assert "history.csv is damaged: it ends after 0 epochs, the checkpoint after 4" in done.stderr


def test_batches_cover_every_image_once_and_devices_share_them() -> None:
    def batches(rank: int, world: int, micro: int) -> EpochBatches:
        place = {"rank": rank, "world_size": world}
        return EpochBatches(27, batch_size=8, micro_batch=micro, seed=5, **place)

    whole = batches(0, 1, 8)
    assert len(whole) == 3
    first = list(whole)
    assert len({index for batch in first for index in batch}) == 24
    shares = [list(batches(rank, 2, 4)) for rank in range(2)]
    for batch, *parts in zip(first, *shares, strict=True):
        assert sorted(batch) == sorted(index for part in parts for index in part)
    whole.set_epoch(1)
    assert list(whole) != first
    kept = EpochBatches(27, batch_size=8, micro_batch=8, seed=None)
    assert [index for batch in kept for index in batch] == list(range(27))
    with pytest.raises(ValueError, match="devices=2 cannot share 1 test images; take fewer"):
        EpochBatches(1, batch_size=8, micro_batch=4, seed=None, world_size=2)


def test_default_micro_batch() -> None:
    assert default_micro_batch(128, 1, "cpu") == 8
    assert default_micro_batch(128, 2, "gpu") == 64
    assert default_micro_batch(14, 2, "cpu") == 7
    assert default_micro_batch(22, 2, "cpu") == 11
    assert default_micro_batch(3, 1, "cpu") == 3


def test_generators_depend_on_seed_epoch_and_image() -> None:
    def first(*key: int) -> float:
        (generator,) = image_generators(key[0], key[1], [key[2]])
        return float(torch.rand((), generator=generator))

    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 1, 1)]
    assert len({first(*key) for key in keys}) == len(keys)
    assert first(3, 4, 5) == first(3, 4, 5)


def test_too_little_memory_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(lambda: np.empty(2**55), name="ats", stopped="") == 2
    message = capsys.readouterr().err
    assert message.startswith("ats: error: out of memory (Unable to allocate 256. PiB")
    assert message.endswith("take fewer or smaller patches or images at a time\n")


def test_commands_keep_the_memory_that_they_free() -> None:
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("another C library")
    code = (
        "from pathlib import Path\n"
        "from ats.training.report import run_script\n"
        "import torch\n"
        "def resident():\n"
        "    return int(Path('/proc/self/statm').read_text().split()[1])\n"
        "def train():\n"
        "    kept = torch.ones(2**26)\n"
        "    before = resident()\n"
        "    del kept\n"
        "    print(resident() > 0.9 * before)\n"
        "    return {}\n"
        "run_script('test', train)\n"
    )
    name = "MALLOC_TRIM_THRESHOLD_"
    unset = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    for setting, wanted in (({}, "True"), ({name: "131072"}, "False")):
        environment = {**unset, **setting}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True
        )
        assert done.stdout.strip() == wanted, done.stderr
