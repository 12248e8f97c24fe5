"""Classifiers that count what patches vote for."""

import torch
from torch import Tensor, nn

from ats.nn import AttentionSampling, Classifier, L2Normalize

ABSTENTIONS = 0.25
"""Abstentions that are counted besides, so that it pays to look at what votes.

Without them a share would not depend on how much of what is seen votes at all, and training starts
later: the results page has what was tried.
"""


class Votes(nn.Module):
    """The vote of each patch: probabilities of all classes, and of none of them.

    Features are brought to length 1 and scaled, and a linear layer and a softmax follow.

    Args:
        n_features: F.
        n_classes: number of classes C.
        scale: start of a learnable factor on the features, see :class:`ats.Classifier`; None leaves
            it out.
    """

    def __init__(self, n_features: int, n_classes: int, *, scale: float | None = 10.0) -> None:
        super().__init__()
        self.normalize = L2Normalize()
        self.scale = None if scale is None else nn.Parameter(torch.tensor(float(scale)))
        self.linear = nn.Linear(n_features, n_classes + 1)

    def forward(self, features: Tensor) -> Tensor:
        """Votes (B, C + 1), the last that for none, of features (B, F); at least float32."""
        features = self.normalize(features)
        logits: Tensor = self.linear(features if self.scale is None else features * self.scale)
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(-1)


class Shares(nn.Module):
    """Shares of the classes in all votes but those for none.

    v_c / (ABSTENTIONS + sum_c v_c): next to nothing where hardly anything votes for a class.

    Args:
        n_classes: number of classes C.
    """

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.n_classes = n_classes

    def forward(self, votes: Tensor) -> Tensor:
        """Shares (B, C) of mean votes (B, C + 1).

        Raises:
            ValueError: there are others than these.
        """
        if votes.shape[1] != self.n_classes + 1:
            raise ValueError(
                f"the feature network yields {votes.shape[1]} numbers, votes for {self.n_classes} "
                f"classes and none are {self.n_classes + 1}; end it with ats.Votes(n_features, "
                f"{self.n_classes})"
            )
        votes = votes[:, :-1]
        # A weighted mean of few votes can be negative where its weights are.
        return votes / (votes.sum(1, keepdim=True).clamp_min(0) + ABSTENTIONS)


class VotingClassifier(Classifier):
    """The class of an image is that for which most of what it shows votes.

    Its feature network ends with :class:`Votes`, whose mean is taken by attention; logits are
    ``scale`` times the :class:`Shares`. Patches that show nothing abstain and, unlike those that a
    linear classifier sees in the mean, take nothing from the others; no class can be told from
    nothing being there. For images whose class is shown by some of their patches.

    Args:
        sampling: what yields votes (B, C + 1).
        n_classes: number of classes C.
        scale: start of the learnable factor on the shares; None leaves it out.

    Raises:
        ValueError: when called, features are not as many as votes.
    """

    def __init__(
        self, sampling: AttentionSampling, n_classes: int, *, scale: float | None = 10.0
    ) -> None:
        super().__init__(sampling, n_classes, n_classes, scale=scale)
        self.normalize, self.linear = Shares(n_classes), nn.Identity()
