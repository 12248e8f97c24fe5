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
        decay = torch.clamp((1 + steps) / (10 + steps), max=self.decay)
        self.steps += 1
        for own, other in zip(
            self.model.state_dict().values(), model.state_dict().values(), strict=True
        ):
            if own.is_floating_point():
                own.lerp_(other, (1 - decay).to(own.dtype))
            else:
                own.copy_(other)
