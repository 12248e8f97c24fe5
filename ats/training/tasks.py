"""What is learnt from an image: one class, several, or numbers. Targets, losses, metrics."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Array = NDArray[Any]
Metric = Callable[[Array, Array], float]
"""From scores (n, T) and targets (n, ...) to a number."""


class Interval(NamedTuple):
    """A metric with its 95 % interval."""

    value: float
    low: float
    high: float


def cross_entropy(logits: Tensor, target: Tensor, weights: Tensor | None) -> Tensor:
    """Cross-entropy (B,) of classes (B,)."""
    return F.cross_entropy(logits, target, weight=weights, reduction="none")


def wrong_class(logits: Tensor, target: Tensor) -> Tensor:
    """1 where the class of the largest logit is wrong, (B,)."""
    return (logits.argmax(1) != target).float()


class Task(ABC):
    """What is learnt from an image.

    Args:
        names: of the classes, or of the numbers: what each output of the network stands for.
    """

    name: str

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)

    @abstractmethod
    def targets(self, labels: Sequence[tuple[str, ...]]) -> Tensor:
        """Targets (n, ...) of the labels of n images.

        Raises:
            ValueError: a label has no meaning here.
        """

    @abstractmethod
    def loss(self, logits: Tensor, target: Tensor, weights: Tensor | None) -> Tensor:
        """Loss (B,) of logits (B, T), with class weights (T)."""

    @abstractmethod
    def error(self, logits: Tensor, target: Tensor) -> Tensor:
        """Errors (B,) of single images."""

    @abstractmethod
    def scores(self, logits: Tensor) -> Tensor:
        """What the network says, (B, T): probabilities, or the numbers themselves."""

    @abstractmethod
    def say(self, scores: Sequence[float]) -> str:
        """The prediction for one image in words."""

    @abstractmethod
    def metrics(self) -> dict[str, Metric]:
        """Metrics of a whole set by their names."""

    def class_weights(self, targets: Tensor) -> Tensor | None:
        """Weights (T) that make up for classes of different sizes."""
        return None

    def fitted(self, targets: Tensor) -> "Task":
        """The task with what it takes from the targets (n, ...) of a training set."""
        return self

    def strata(self, targets: Tensor) -> Array:
        """Whole numbers (n,) whose shares a division into training and test keeps."""
        return np.zeros(len(targets), dtype=np.int64)


class Classes(Task):
    """One of several classes: softmax, cross-entropy."""

    name = "classes"

    def targets(self, labels: Sequence[tuple[str, ...]]) -> Tensor:
        """Numbers of the classes (n,) int64."""
        places = {name: number for number, name in enumerate(self.names)}
        unknown = sorted({label[0] for label in labels} - set(places))
        if unknown:
            raise ValueError(
                f"labels {', '.join(unknown[:5])} are none of the classes {', '.join(self.names)}; "
                "the network was trained without them"
            )
        return torch.tensor([places[label[0]] for label in labels])

    def loss(self, logits: Tensor, target: Tensor, weights: Tensor | None) -> Tensor:
        """Cross-entropy."""
        return cross_entropy(logits, target, weights)

    def error(self, logits: Tensor, target: Tensor) -> Tensor:
        """1 where the class of the largest logit is wrong."""
        return wrong_class(logits, target)

    def scores(self, logits: Tensor) -> Tensor:
        """Probabilities."""
        return logits.float().softmax(1)

    def say(self, scores: Sequence[float]) -> str:
        """The likeliest class."""
        return self.names[int(np.argmax(scores))]

    def metrics(self) -> dict[str, Metric]:
        """Accuracy, balanced accuracy, area under the ROC curve (the mean of one against rest)."""
        return {"accuracy": _accuracy, "balanced_accuracy": _balanced_accuracy, "auroc": _auroc}

    def class_weights(self, targets: Tensor) -> Tensor | None:
        """1 / (classes x frequency)."""
        # A class that only the test set has would have an infinite weight, never used.
        counts = torch.bincount(targets, minlength=len(self.names)).clamp_min(1)
        return len(targets) / (len(self.names) * counts.float())

    def strata(self, targets: Tensor) -> Array:
        """The classes."""
        return targets.numpy()


class Labels(Task):
    """Any number of several classes: a sigmoid and binary cross-entropy for each."""

    name = "labels"

    def targets(self, labels: Sequence[tuple[str, ...]]) -> Tensor:
        """1 for each class that an image has, (n, T) float32."""
        places = {name: number for number, name in enumerate(self.names)}
        out = torch.zeros(len(labels), len(self.names))
        for row, own in zip(out, labels, strict=True):
            for label in own:
                if label not in places:
                    raise ValueError(f"label {label} is none of {', '.join(self.names)}")
                row[places[label]] = 1
        return out

    def loss(self, logits: Tensor, target: Tensor, weights: Tensor | None) -> Tensor:
        """Binary cross-entropy, the mean over classes."""
        return F.binary_cross_entropy_with_logits(
            logits, target, pos_weight=weights, reduction="none"
        ).mean(1)

    def error(self, logits: Tensor, target: Tensor) -> Tensor:
        """Share of the classes that are wrong."""
        return ((logits > 0).float() != target).float().mean(1)

    def scores(self, logits: Tensor) -> Tensor:
        """Probabilities, each by itself."""
        return logits.float().sigmoid()

    def say(self, scores: Sequence[float]) -> str:
        """The classes above one half."""
        named = zip(self.names, scores, strict=True)
        return ";".join(name for name, score in named if score > 0.5)

    def metrics(self) -> dict[str, Metric]:
        """Share of right labels, area under the ROC curve (the mean over classes)."""
        return {"accuracy": lambda s, t: float(((s > 0.5) == t).mean()), "auroc": _auroc}

    def class_weights(self, targets: Tensor) -> Tensor | None:
        """Images without a class over images with it."""
        having = targets.sum(0).clamp_min(1)
        return (len(targets) - having).clamp_min(1) / having

    def strata(self, targets: Tensor) -> Array:
        """The rarest class that an image has, or none of them."""
        order = targets.sum(0).argsort(descending=True)
        rank = torch.zeros(len(targets), dtype=torch.int64)
        for place, column in enumerate(order.tolist(), 1):
            rank[targets[:, column] > 0] = place
        return rank.numpy()


class Numbers(Task):
    """Numbers, each by its squared error in units of its own spread.

    Args:
        names: of the numbers.
        mean: of each in the training set.
        spread: standard deviation of each there.
    """

    name = "numbers"

    def __init__(
        self,
        names: Sequence[str],
        mean: Sequence[float] | None = None,
        spread: Sequence[float] | None = None,
    ) -> None:
        super().__init__(names)
        self.mean = list(mean or [0.0] * len(self.names))
        self.spread = list(spread or [1.0] * len(self.names))

    def targets(self, labels: Sequence[tuple[str, ...]]) -> Tensor:
        """The numbers (n, T) float32."""
        try:
            values = [[float(field) for field in label] for label in labels]
        except ValueError as error:
            raise ValueError(
                f"a label is no number ({error}); correct it, or learn classes"
            ) from error
        if not np.isfinite(values).all():
            raise ValueError("a label is not finite; correct it, or leave the image out")
        return torch.tensor(values)

    def loss(self, logits: Tensor, target: Tensor, weights: Tensor | None) -> Tensor:
        """Squared error, the mean over numbers."""
        return (logits - self._standard(target)).square().mean(1)

    def error(self, logits: Tensor, target: Tensor) -> Tensor:
        """Absolute error, the mean over numbers."""
        return (logits - self._standard(target)).abs().mean(1)

    def scores(self, logits: Tensor) -> Tensor:
        """The numbers in their own units."""
        return logits.float() * logits.new_tensor(self.spread) + logits.new_tensor(self.mean)

    def fitted(self, targets: Tensor) -> "Numbers":
        """With their mean and spread; numbers that are all the same have a spread of 1."""
        mean, spread = targets.mean(0), targets.std(0, correction=0)
        spread = spread.masked_fill(spread <= 1e-6 * mean.abs(), 1.0)
        return Numbers(self.names, mean.tolist(), spread.tolist())

    def say(self, scores: Sequence[float]) -> str:
        """The numbers."""
        return ";".join(f"{score:.6g}" for score in scores)

    def metrics(self) -> dict[str, Metric]:
        """Mean absolute error, and the share of the variance that is explained."""
        return {"mean_absolute_error": lambda s, t: float(np.abs(s - t).mean()), "r2": _r2}

    def _standard(self, target: Tensor) -> Tensor:
        return (target - target.new_tensor(self.mean)) / target.new_tensor(self.spread)


TASKS: dict[str, type[Task]] = {task.name: task for task in (Classes, Labels, Numbers)}


def with_intervals(
    metrics: dict[str, Metric],
    scores: Array,
    targets: Array,
    groups: Sequence[str] | None = None,
    *,
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Every metric with its 95 % interval by the bootstrap (percentiles).

    Images are drawn with replacement, or whole groups of them, which are then what is independent.

    A metric that has no value on a set, such as the area under the curve where one class is
    missing, is NaN; such draws are left out of the interval. Where all draws have the same value,
    as they do of a single group or where everything is right, they say nothing about others: that
    of an accuracy of 0 or 1 is then the exact one (Clopper and Pearson), any other unknown, NaN.

    References:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.
        Clopper and Pearson, Biometrika 26, 1934.
    """
    rng = np.random.default_rng(seed)
    member = np.unique(groups, return_inverse=True)[1] if groups else np.arange(len(targets))
    members = [np.flatnonzero(member == number) for number in range(member.max() + 1)]
    samples = [
        np.concatenate([members[number] for number in rng.integers(0, len(members), len(members))])
        for _ in range(draws)
    ]
    out = {}
    for name, metric in metrics.items():
        value = metric(scores, targets)
        values = np.array([metric(scores[rows], targets[rows]) for rows in samples])
        known = values[np.isfinite(values)]
        if len(np.unique(known)) > 1:
            low, high = np.percentile(known, [2.5, 97.5])
        elif name == "accuracy" and value in (0, 1):
            # Of so many that are all right or all wrong.
            bound = 0.025 ** (1 / len(members))
            low, high = (bound, 1.0) if value else (0.0, 1 - bound)
        else:
            low, high = np.nan, np.nan
        out[name] = Interval(value, float(low), float(high))
    return out


def _accuracy(scores: Array, targets: Array) -> float:
    return float((scores.argmax(1) == targets).mean())


def _balanced_accuracy(scores: Array, targets: Array) -> float:
    """Mean over the classes that occur of the share of each that is right."""
    right = scores.argmax(1) == targets
    return float(np.mean([right[targets == name].mean() for name in np.unique(targets)]))


def _auroc(scores: Array, targets: Array) -> float:
    """Mean area under the ROC curve, of each class against the rest, over those that have both."""
    wanted = targets
    if targets.ndim == 1:
        wanted = np.eye(scores.shape[1])[targets]
        if scores.shape[1] == 2:
            wanted, scores = wanted[:, 1:], scores[:, 1:]
    areas = [_area(own, true > 0) for own, true in zip(scores.T, wanted.T, strict=True)]
    known = [area for area in areas if np.isfinite(area)]
    return float(np.mean(known)) if known else float("nan")


def _area(scores: Array, positive: Array) -> float:
    """Probability that a positive scores above a negative, ties counted half (Mann and Whitney)."""
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if not n_positive or not n_negative:
        return float("nan")
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (counts.cumsum() - (counts - 1) / 2)[place]
    return float(
        (ranks[positive].sum() - n_positive * (n_positive + 1) / 2) / n_positive / n_negative
    )


def _r2(scores: Array, targets: Array) -> float:
    residual = ((targets - scores) ** 2).sum()
    total = ((targets - targets.mean(0)) ** 2).sum()
    return float(1 - residual / total) if total > 0 else float("nan")
