"""Weights averaged over the steps of a training."""

import copy

import torch
from torch import Tensor, nn


class Averaged(nn.Module):
    """A network whose weights follow those of another one slowly.

    After every step, m <- d m + (1 - d) w for each weight w and each running statistic, with the
    decay d = min(decay, (1 + t) / (10 + t)) of step t, so that the start is soon forgotten.

    Args:
        model: the other one, as it starts.
        decay: in [0, 1); the average reaches back about 1 / (1 - decay) steps.

    References:
        Polyak and Juditsky, Acceleration of Stochastic Approximation by Averaging, 1992.
    """

    steps: Tensor

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def follow(self, model: nn.Module) -> None:
        """Take a step towards the other network."""
        steps = self.steps.double()
        share = 1 - torch.clamp((1 + steps) / (10 + steps), max=self.decay)
        self.steps += 1
        own, other = ([*m.parameters(), *m.buffers()] for m in (self.model, model))
        means = [tensor for tensor in own if tensor.is_floating_point()]
        # All at once: on a GPU each operation costs more to call than to compute.
        change = torch._foreach_sub([w for w in other if w.is_floating_point()], means)
        torch._foreach_mul_(change, share.to(means[0].dtype))
        torch._foreach_add_(means, change)
        for count, new in zip(own, other, strict=True):
            if not count.is_floating_point():
                count.copy_(new)
