"""Training is not silent: an epoch's batches are counted, and nothing is left open, whatever ends it."""

from types import SimpleNamespace
from typing import Any

import pytest

from probe import progress
from probe.verbs.fit.epochs import EpochProgress


def trainer(**settings: Any) -> Any:
    usual = {"max_epochs": 3, "current_epoch": 1, "is_global_zero": True, "progress_bar_callback": None}
    return SimpleNamespace(**usual | {"num_training_batches": 4} | settings)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "FIRST", 0.0)
    monkeypatch.setattr(progress, "EVERY", 0.0)


def test_the_batches_of_an_epoch_are_counted(slow: None, capsys: pytest.CaptureFixture[str]) -> None:
    shown = EpochProgress()
    shown.on_train_epoch_start(trainer(), None)  # type: ignore[arg-type]
    for _ in range(4):
        shown.on_train_batch_end()
    shown.on_validation_start(trainer(), None)  # type: ignore[arg-type]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("learning, epoch 2 of 3, 1 of 4 batches")
    assert len(lines) == 3


@pytest.mark.parametrize("who", [{"is_global_zero": False}, {"progress_bar_callback": object()}])
def test_one_process_tells_and_not_beside_lightnings_bar(
    slow: None, capsys: pytest.CaptureFixture[str], who: dict[str, Any]
) -> None:
    shown = EpochProgress()
    shown.on_train_epoch_start(trainer(**who), None)  # type: ignore[arg-type]
    shown.on_train_batch_end()
    shown.on_train_end(trainer(), None)  # type: ignore[arg-type]
    assert capsys.readouterr().err == ""
