"""Tasks: targets, losses, and metrics beside those of scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, r2_score, roc_auc_score

from ats.training.tasks import Classes, Labels, Numbers, Task, with_intervals

RNG = np.random.default_rng(0)


def test_metrics_of_classes_are_those_of_scikit_learn() -> None:
    task = Classes(["a", "b", "c"])
    scores = RNG.dirichlet(np.ones(3), 200).round(2)
    targets = RNG.integers(0, 3, 200)
    metrics = task.metrics()
    assert metrics["accuracy"](scores, targets) == (scores.argmax(1) == targets).mean()
    expected = balanced_accuracy_score(targets, scores.argmax(1))
    assert metrics["balanced_accuracy"](scores, targets) == pytest.approx(expected)
    expected = roc_auc_score(np.eye(3)[targets], scores)
    assert metrics["auroc"](scores, targets) == pytest.approx(expected)


def test_two_classes_have_one_curve() -> None:
    scores = RNG.dirichlet(np.ones(2), 100)
    targets = RNG.integers(0, 2, 100)
    found = Classes(["no", "yes"]).metrics()["auroc"](scores, targets)
    assert found == pytest.approx(roc_auc_score(targets, scores[:, 1]))


def test_metrics_of_labels_and_numbers_are_those_of_scikit_learn() -> None:
    scores, targets = RNG.random((90, 4)), RNG.integers(0, 2, (90, 4)).astype(float)
    metrics = Labels(list("abcd")).metrics()
    assert metrics["auroc"](scores, targets) == pytest.approx(roc_auc_score(targets, scores))
    assert metrics["accuracy"](scores, targets) == pytest.approx(((scores > 0.5) == targets).mean())
    targets = RNG.normal(size=(90, 1))
    scores = targets + 0.3 * RNG.normal(size=(90, 1))
    metrics = Numbers(["age"]).metrics()
    assert metrics["r2"](scores, targets) == pytest.approx(r2_score(targets, scores))
    assert metrics["mean_absolute_error"](scores, targets) == np.abs(scores - targets).mean()


def test_a_missing_class_has_no_curve() -> None:
    metrics = Classes(["a", "b"]).metrics()
    assert np.isnan(metrics["auroc"](RNG.random((5, 2)), np.zeros(5, int)))


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """Accuracy of .8, 100 sets of 120 images: 95 +- 3 standard deviations of the binomial."""
    covered = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        targets = rng.integers(0, 2, 120)
        right = rng.random(120) < 0.8
        scores = np.eye(2)[np.where(right, targets, 1 - targets)]
        metric = {"accuracy": Classes(["a", "b"]).metrics()["accuracy"]}
        found = with_intervals(metric, scores, targets, draws=300, seed=seed)["accuracy"]
        assert found.low <= found.value <= found.high
        covered += found.low <= 0.8 <= found.high
    assert 86 <= covered <= 100


def test_groups_are_drawn_whole() -> None:
    """Ten images of each of twelve patients that are all right or all wrong: as twelve images."""
    right = np.repeat(np.arange(12) < 8, 10)
    targets = np.zeros(120, int)
    scores = np.eye(2)[np.where(right, 0, 1)]
    metrics = {"accuracy": Classes(["a", "b"]).metrics()["accuracy"]}
    patients = [str(number // 10) for number in range(120)]
    alone = with_intervals(metrics, scores[::10], targets[::10])["accuracy"]
    groups = with_intervals(metrics, scores, targets, patients)["accuracy"]
    images = with_intervals(metrics, scores, targets)["accuracy"]
    assert groups == alone
    assert images.high - images.low < 0.5 * (groups.high - groups.low)


def test_what_all_draws_agree_on_has_no_narrow_interval() -> None:
    """Ten of ten right: not below 0.69 by the exact test; one patient says nothing of others."""
    targets = np.arange(10) % 2
    metrics = Classes(["a", "b"]).metrics()
    found = with_intervals(metrics, np.eye(2)[targets], targets)
    assert found["accuracy"] == (1.0, pytest.approx(0.025**0.1), 1.0)
    assert np.isnan(found["auroc"].low)
    assert np.isnan(found["balanced_accuracy"].high)
    wrong = with_intervals(metrics, np.eye(2)[1 - targets], targets)["accuracy"]
    assert wrong == (0.0, 0.0, pytest.approx(1 - 0.025**0.1))
    scores = np.eye(2)[np.where(np.arange(10) < 7, targets, 1 - targets)]
    alone = with_intervals(metrics, scores, targets, ["p"] * 10)["accuracy"]
    assert alone.value == 0.7
    assert np.isnan([alone.low, alone.high]).all()


@pytest.mark.parametrize(
    ("task", "labels"),
    [
        (Classes(["a", "b"]), [("a",), ("b",), ("a",), ("a",)]),
        (Labels(["a", "b"]), [("a",), ("a", "b"), (), ("a",)]),
        (Numbers(["x"], [2.0], [0.5]), [("1",), ("2.5",), ("3e0",), ("2",)]),
    ],
    ids=["classes", "labels", "numbers"],
)
def test_a_perfect_network_has_the_least_loss_and_no_error(
    task: Task, labels: list[tuple[str, ...]]
) -> None:
    targets = task.targets(labels)
    if isinstance(task, Numbers):
        perfect = (targets - 2) / 0.5
    else:
        wanted = torch.eye(2)[targets] if isinstance(task, Classes) else targets
        perfect = 40 * (wanted - 0.5)
    weights = task.class_weights(targets)
    assert task.loss(perfect, targets, weights).max() < 1e-6
    assert task.error(perfect, targets).max() == 0
    assert task.loss(-perfect - 1, targets, weights).min() > 0.1
    assert task.loss(perfect, targets, None).shape == (4,)
    for row, label in zip(task.scores(perfect).tolist(), labels, strict=True):
        said = task.say(row)
        if isinstance(task, Numbers):
            assert float(said) == pytest.approx(float(label[0]))
        else:
            assert said == ";".join(label)


def test_numbers_take_their_units_from_those_to_train_on() -> None:
    fitted = Numbers(["x", "y"]).fitted(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    assert (fitted.names, fitted.mean, fitted.spread) == (["x", "y"], [2.0, 5.0], [1.0, 1.0])
    assert Numbers(["x"]).fitted(torch.tensor([[7.0]])).spread == [1.0]


def test_class_weights_make_up_for_sizes() -> None:
    task = Classes(["a", "b"])
    targets = torch.tensor([0, 0, 0, 1])
    weights = task.class_weights(targets)
    assert weights is not None
    assert weights[targets].mean() == 1
    assert weights[1] == 3 * weights[0]
    assert Labels(["a"]).class_weights(torch.tensor([[1.0], [0.0], [0.0]])).tolist() == [2.0]  # type: ignore[union-attr]


def test_labels_without_a_meaning_say_so() -> None:
    with pytest.raises(ValueError, match=r"labels c are none of the classes a, b"):
        Classes(["a", "b"]).targets([("c",)])
    with pytest.raises(ValueError, match=r"label c is none of a"):
        Labels(["a"]).targets([("a", "c")])
    with pytest.raises(ValueError, match="no number"):
        Numbers(["x"]).targets([("tall",)])
    with pytest.raises(ValueError, match="not finite"):
        Numbers(["x"]).targets([("nan",)])
