"""What only a GPU can show; skipped without one."""

import pytest
import torch

import ats
from ats.sampling import DESIGNS

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("kind", ["sparse", "dense"])
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
    images = ats.SparseImages.from_dense(pixels).to("cuda") if kind == "sparse" else pixels.cuda()
    target = torch.tensor([0, 2]).cuda()

    def step() -> None:
        optimizer.zero_grad()
        generators = [torch.Generator().manual_seed(number) for number in range(2)]
        logits, seen = network(small, images, generator=generators)
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


@pytest.mark.parametrize("n_patches", [4, 30])
@pytest.mark.parametrize("name", DESIGNS)
def test_draws_are_those_of_the_host(name: str, n_patches: int) -> None:
    """The same numbers choose the same positions, though the device never says how far it is."""
    generator = torch.Generator().manual_seed(0)
    attention = (6 * torch.randn(8, 30, generator=generator)).double().softmax(1)
    attention[0] = torch.eye(30)[3]

    def draw(maps: torch.Tensor) -> ats.sampling.Sample:
        generators = [torch.Generator().manual_seed(number) for number in range(8)]
        return ats.sample(maps, n_patches, design=name, generator=generators)

    wanted, found = draw(attention), draw(attention.cuda())
    assert torch.equal(found.positions.cpu(), wanted.positions)
    torch.testing.assert_close(found.weights.cpu(), wanted.weights)
