"""Figures take at most a twentieth of a run."""

import time
from types import SimpleNamespace
from typing import Any

import pytest

from ats.training.sparing import Sparing


def test_a_figure_waits_until_it_is_worth_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    trainer: Any = SimpleNamespace(current_epoch=0, max_epochs=1000)
    sparing = Sparing()
    drawn, spent = 0, 0.0
    for epoch in range(1000):
        trainer.current_epoch = epoch
        now += 1.0
        if sparing.due(trainer):
            with sparing.drawing():
                now += 0.7
            drawn, spent = drawn + 1, spent + 0.7
            # The first and the last one in any case.
            assert epoch in (0, 999) or spent <= 0.05 * (now - 100) + 1.4
    assert spent < 0.05 * (now - 100) + 1.4
    assert 60 < drawn < 80
    # Where epochs are long, every one has its figure.
    for epoch in range(10):
        trainer.current_epoch = epoch
        now += 60.0
        assert sparing.due(trainer)
        with sparing.drawing():
            now += 0.7


def test_the_last_figure_is_always_drawn() -> None:
    trainer: Any = SimpleNamespace(current_epoch=0, max_epochs=2)
    sparing = Sparing()
    assert sparing.due(trainer)
    with sparing.drawing():
        time.sleep(0.1)
    trainer.max_epochs = 3
    trainer.current_epoch = 1
    assert not sparing.due(trainer)
    trainer.current_epoch = 2
    assert sparing.due(trainer)
