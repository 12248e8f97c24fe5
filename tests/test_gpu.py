"""What only a GPU can show; skipped without one."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import ats
from ats.affine import RandomAffine
from ats.datasets.batch import Batch, collate
from ats.datasets.make_megapixel_mnist import make_megapixel_mnist
from ats.datasets.megapixel_mnist import MegapixelMNIST
from ats.patches import fused_kernels
from ats.sampling import DESIGNS
from ats.training.batches import EpochBatches, PinningLoader, pinned
from ats.training.captured import CapturedStep
from ats.training.module import TrainingModule
from ats.transforms import RandomChange

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("kind", ["sparse", "dense", "turned", "changed"])
def test_nothing_synchronises_within_a_step(kind: str) -> None:
    """The host never waits for the device, so that it can go on to the next step."""
    attention = torch.nn.Conv2d(1, 1, 3, padding="same")
    feature = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 5), torch.nn.AdaptiveMaxPool2d(1), torch.nn.Flatten()
    )
    sampling = ats.AttentionSampling(
        attention, feature, n_patches=4, patch_size=(16, 16), prior=ats.local_contrast
    )
    network = ats.Classifier(sampling, 8, 3).cuda()
    optimizer = torch.optim.Adam(network.parameters())
    pixels = torch.rand(2, 1, 300, 200) * (torch.rand(2, 1, 300, 200) < 0.1)
    small = pixels[:, :, ::10, ::10].cuda()
    images: ats.Images | torch.Tensor = pixels.cuda()
    if kind == "sparse":
        images = ats.SparseImages.from_dense(pixels).to("cuda")
    target = torch.tensor([0, 2]).cuda()

    def step() -> None:
        optimizer.zero_grad()
        generators = [torch.Generator().manual_seed(number) for number in range(2)]
        x_low, x_high = small, images
        if kind == "turned":
            x_low, x_high = RandomAffine()(small, images, generators)
        elif kind == "changed":
            x_low, x_high = RandomChange(pan=20)(small, images, generators)
        logits, seen = network(x_low, x_high, generator=generators)
        loss = torch.nn.functional.cross_entropy(logits, target)
        (loss - 0.01 * ats.entropy(seen.attention).mean()).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()

    # What is made once, such as the order of the curve, may wait.
    step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_batches_are_sent_without_waiting_for_the_device() -> None:
    sampling = ats.AttentionSampling(
        torch.nn.Identity(), torch.nn.Flatten(), n_patches=4, patch_size=(16, 16)
    )
    model = ats.Classifier(sampling, 256, 3)
    module = TrainingModule(model, optimizer=torch.optim.Adam, regularizer_strength=0.1, seed=0)
    pixels = torch.rand(2, 1, 300, 200) * (torch.rand(2, 1, 300, 200) < 0.1)
    target, index = torch.tensor([0, 2]), torch.arange(2)
    small, images = pixels[:, :, ::10, ::10], ats.SparseImages.from_dense(pixels)
    batch = pinned(Batch(small, images, target, index))
    device = torch.device("cuda")
    module.transfer_batch_to_device(batch, device, 0)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        moved = module.transfer_batch_to_device(batch, device, 0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(moved.x_high.to_dense().cpu(), pixels)


# More than 64 are not drawn by a kernel; no map has fewer positions than are drawn.
@pytest.mark.parametrize(
    ("shape", "n_patches"),
    [
        (shape, n_patches)
        for shape in ((30,), (180, 180), (5, 6, 7))
        for n_patches in (4, 30, 65)
        if n_patches <= math.prod(shape)
    ],
    ids=str,
)
@pytest.mark.parametrize("name", DESIGNS)
def test_draws_are_those_of_the_host(name: str, n_patches: int, shape: tuple[int, ...]) -> None:
    """The same numbers choose the same positions, though the device never says how far it is."""
    n_positions = math.prod(shape)
    generator = torch.Generator().manual_seed(0)
    attention = (6 * torch.randn(8, n_positions, generator=generator)).double().softmax(1)
    attention[0] = torch.eye(n_positions)[3]
    attention = attention.reshape(8, *shape)

    def draw(maps: torch.Tensor) -> ats.sampling.Sample:
        generators = [torch.Generator().manual_seed(number) for number in range(8)]
        return ats.sample(maps, n_patches, design=name, generator=generators)

    wanted, found = draw(attention), draw(attention.cuda())
    positions = found.positions.cpu()
    if name == "top":
        # Which of equally large ones come first is anyone's choice.
        images = torch.arange(8)[:, None]
        rows = (attention[images, *p.unbind(2)] for p in (positions, wanted.positions))
        assert torch.equal(*rows)
    else:
        assert torch.equal(positions, wanted.positions)
    torch.testing.assert_close(found.weights.cpu(), wanted.weights)


def test_weights_have_the_gradient_of_the_host() -> None:
    logits = torch.randn(4, 20, 30, dtype=torch.float64)
    factor = torch.randn(4, 9, dtype=torch.float64)

    def gradient(device: str) -> torch.Tensor:
        own = logits.detach().to(device).requires_grad_()
        attention = own.flatten(1).softmax(1).reshape(own.shape)
        generators = [torch.Generator().manual_seed(number) for number in range(4)]
        weights = ats.sample(attention, 9, generator=generators).weights
        (weights * factor.to(device)).sum().backward()
        assert own.grad is not None
        return own.grad.cpu()

    torch.testing.assert_close(gradient("cuda"), gradient("cpu"))


@pytest.mark.parametrize(("design", "kernel"), [("systematic", "_walk"), ("murthy", "_draw_in")])
def test_draws_are_made_by_one_kernel(design: str, kernel: str) -> None:
    attention = torch.full((2, 40, 50), 1 / 2000).cuda()
    ats.sample(attention, 10, design=design)
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities, acc_events=True) as profiler:
        ats.sample(attention, 10, design=design)
        torch.cuda.synchronize()
    kernels = [event for event in profiler.events() if event.name.startswith(kernel)]
    assert len(kernels) == 1


def test_what_is_no_attention_stops_the_device() -> None:
    program = """
import ats, torch
attention = torch.full((2, 20, 30), 1 / 600).cuda()
attention[1] *= FAULT
ats.sample(attention, 4, design=DESIGN)
torch.cuda.synchronize()
"""
    for design in ("systematic", "des-raj"):
        for fault, fails in ((1.0, False), (1.1, True), (float("nan"), True)):
            given = f"DESIGN, FAULT = {design!r}, float('{fault}')"
            command = [sys.executable, "-c", given + program]
            done = subprocess.run(command, capture_output=True, text=True)
            assert (done.returncode != 0) == fails, done.stderr
            assert ("assert" in done.stderr) == fails, done.stderr


def test_batches_are_fetched_ahead_into_locked_memory(tmp_path: Path) -> None:
    make_megapixel_mnist(tmp_path, digits="optdigits", n_train=20, n_test=4)
    data: Any = MegapixelMNIST(tmp_path)
    batches = EpochBatches(20, batch_size=6, micro_batch=6, seed=0)
    options: dict[str, Any] = {"batch_sampler": batches, "collate_fn": collate}
    for epoch in range(2):
        batches.set_epoch(epoch)
        found = list(PinningLoader(data, **options))
        wanted = list(DataLoader(data, **options))
        assert len(found) == len(wanted) == 3
        for own, other in zip(found, wanted, strict=True):
            assert torch.equal(own.index, other.index)
            assert torch.equal(own.x_low, other.x_low)
            assert torch.equal(own.x_high.values, other.x_high.values)
            assert own.x_low.is_pinned()
            assert own.x_high.values.is_pinned()


PATCHES = {
    (40,): (7,),
    (20, 30): (5, 9),
    (60, 50): (48, 41),
    (6, 5): (8, 9),
    (9, 10, 11): (3, 4, 5),
}


@pytest.mark.parametrize("shape", PATCHES, ids=str)
@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.bfloat16, torch.float64, torch.uint8, torch.uint16, torch.bool],
    ids=str,
)
def test_patches_are_those_of_the_host(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    pixels = torch.rand(2, 3, *shape)
    pixels = pixels > 0.5 if dtype == torch.bool else (200 * pixels).to(dtype)
    generator = torch.Generator().manual_seed(0)
    offsets = torch.randint(-9, 60, (2, 25, len(shape)), generator=generator)
    wanted = ats.extract_patches(pixels, offsets, PATCHES[shape])
    found = ats.extract_patches(pixels.cuda(), offsets.cuda(), PATCHES[shape])
    assert found.dtype == wanted.dtype
    assert torch.equal(found.cpu(), wanted)
    if len(shape) == 2:
        last = pixels.cuda().to(memory_format=torch.channels_last)
        assert torch.equal(ats.extract_patches(last, offsets, PATCHES[shape]).cpu(), wanted)


@pytest.mark.parametrize("shape", PATCHES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.uint16], ids=str)
@pytest.mark.parametrize("fill", [0.0, 0.1, 1.0])
def test_patches_of_non_zeros_are_those_of_the_host(
    shape: tuple[int, ...], dtype: torch.dtype, fill: float
) -> None:
    pixels = (200 * torch.rand(2, 3, *shape) * (torch.rand(2, 3, *shape) < fill)).to(dtype)
    generator = torch.Generator().manual_seed(0)
    offsets = torch.randint(-9, 60, (2, 25, len(shape)), generator=generator)
    images = ats.SparseImages.from_dense(pixels)
    wanted = images.patches(offsets, PATCHES[shape])
    assert torch.equal(wanted, ats.extract_patches(pixels, offsets, PATCHES[shape]))
    found = images.to("cuda").patches(offsets.cuda(), PATCHES[shape])
    assert found.dtype == dtype
    assert torch.equal(found.cpu(), wanted)


@pytest.mark.parametrize("shape", [(9,), (3, 40), (2, 17, 5)], ids=str)
def test_contrast_is_that_of_the_host(shape: tuple[int, ...]) -> None:
    views = torch.rand(3, 2, *shape)
    torch.testing.assert_close(ats.local_contrast(views.cuda()).cpu(), ats.local_contrast(views))


def test_patches_are_read_by_one_kernel() -> None:
    image, offsets = torch.rand(2, 3, 90, 80).cuda(), torch.zeros(2, 4, 2, dtype=torch.int64).cuda()
    assert fused_kernels(image, 2) is not None
    ats.extract_patches(image, offsets, (9, 9))
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities, acc_events=True) as profiler:
        ats.extract_patches(image, offsets, (9, 9))
        torch.cuda.synchronize()
    kernels = [event for event in profiler.events() if event.name.startswith("_copy")]
    assert len(kernels) == 1


def test_gradients_of_patches_reach_the_image() -> None:
    image = torch.rand(1, 1, 20, 20).cuda().requires_grad_()
    offsets = torch.tensor([[[-2, 3], [5, 15]]]).cuda()
    ats.extract_patches(image, offsets, (6, 7)).sum().backward()
    assert image.grad is not None
    assert int(image.grad.sum()) == 4 * 7 + 6 * 5


def batch_of(number: int, kind: str, *, turned: bool) -> tuple[Batch, list[torch.Generator]]:
    """Two images on the device, with fewer non-zeros in those of a larger number."""
    generator = torch.Generator().manual_seed(number)
    pixels = torch.rand(2, 1, 300, 200, generator=generator)
    pixels *= torch.rand(pixels.shape, generator=generator) < 0.1 - 0.02 * number
    images: ats.Images = ats.TensorImages(pixels.cuda())
    if kind == "sparse":
        images = ats.SparseImages.from_dense(pixels).to("cuda")
    small, target = pixels[:, :, ::10, ::10].cuda(), torch.tensor([number, 2]).cuda()
    generators = [torch.Generator().manual_seed(image) for image in range(2)]
    if turned:
        small, images = RandomAffine()(small, images, generators)
    return Batch(small, images, target, torch.arange(2)), generators


@pytest.mark.parametrize("kind", ["sparse", "dense"])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("design", ["systematic", "published"])
def test_captured_steps_compute_what_others_do(kind: str, turned: bool, design: str) -> None:
    torch.manual_seed(0)
    norm = torch.nn.BatchNorm2d(8)
    feature = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 5), norm, torch.nn.AdaptiveMaxPool2d(1), torch.nn.Flatten()
    )
    attention = torch.nn.Conv2d(1, 1, 3, padding="same")
    sampling = ats.AttentionSampling(
        attention, feature, n_patches=4, patch_size=(16, 16), design=design
    )
    model = ats.Classifier(sampling, 8, 3).cuda()
    module = TrainingModule(
        model, optimizer=torch.optim.Adam, regularizer_strength=0.1, seed=0
    ).train()
    captured = CapturedStep(model, module._terms)
    for number in range(3):
        replayed = captured(*batch_of(number, kind, turned=turned))
        assert replayed is not None
        # Not more than the steps themselves, though some were computed to capture one.
        assert int(norm.num_batches_tracked or 0) == 2 * number + 1
        found = torch.autograd.grad(replayed.objective, list(model.parameters()))
        terms = module._terms(*batch_of(number, kind, turned=turned))
        assert torch.equal(replayed.seen.positions, terms.seen.positions)
        torch.testing.assert_close(replayed.seen.patches, terms.seen.patches)
        torch.testing.assert_close(replayed.logits, terms.logits)
        torch.testing.assert_close(replayed.objective, terms.objective)
        wanted = torch.autograd.grad(terms.objective, list(model.parameters()))
        for own, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-5)


def test_other_batches_are_not_replayed() -> None:
    sampling = ats.AttentionSampling(
        torch.nn.Conv2d(1, 1, 3, padding="same"),
        torch.nn.Sequential(torch.nn.AdaptiveMaxPool2d(1), torch.nn.Flatten()),
        n_patches=2,
        patch_size=(16, 16),
    )
    model = ats.Classifier(sampling, 1, 3).cuda()
    module = TrainingModule(model, optimizer=torch.optim.Adam, regularizer_strength=0.1, seed=0)
    captured = CapturedStep(model, module.train()._terms)
    batch, generators = batch_of(2, "sparse", turned=False)
    assert captured(batch, generators) is not None
    # Twice as many non-zeros have no room, and host tensors no place.
    assert captured(*batch_of(0, "sparse", turned=False)) is None
    assert captured(batch._replace(x_high=torch.zeros(2, 1, 300, 200)), generators) is None
    assert captured(batch, generators) is not None


@pytest.mark.parametrize("design", ["systematic", "des-raj", "murthy", "replacement"])
def test_what_is_no_attention_ends_the_program(design: str) -> None:
    """Without a wait in each step; the device is of no use to that process from then on."""
    program = (
        "import ats, torch; attention = torch.full((2, 5, 5), 0.1, device='cuda'); "
        f"ats.sample(attention, 3, design={design!r}); torch.cuda.synchronize()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode != 0
    assert "attention must be non-negative, finite and sum to 1" in done.stderr
