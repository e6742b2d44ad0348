"""What steering showed is remembered on disk: the same steering writes nothing, another one does, and damage is noticed."""

from dataclasses import asdict
from pathlib import Path

import lightning as L
import pytest

from probe.data.splits import ContrastData
from probe.lm.frozen import FrozenLM
from probe.lm.spec import LMSpec
from probe.lm.writer import Written
from probe.scorers import MeanDifference
from probe.steering.callback import SteeringCallback


@pytest.fixture
def steer(tiny_lm_folder: Path, small_sets: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Fits and steers; returns the scorer, the callback, and how many texts were written for it."""

    def run(
        cache: Path | None = tmp_path / "cache", **settings: object
    ) -> tuple[MeanDifference, SteeringCallback, int]:
        written = 0
        write = FrozenLM.write

        def counting(lm: FrozenLM, prompts: list[str], *args: object, **more: object) -> list[Written]:
            nonlocal written
            written += len(prompts)
            return write(lm, prompts, *args, **more)

        scorer = MeanDifference(LMSpec(str(tiny_lm_folder), device="cpu"), cache_dir=cache and str(cache))
        steering = {"n_prompts": 2, "n_random": 1, "max_new_tokens": 6, "strength_unit": "dose"} | settings
        callback = SteeringCallback(**steering)
        with monkeypatch.context() as patch:
            patch.setattr(FrozenLM, "write", counting)
            L.Trainer(
                accelerator="cpu", max_epochs=1, num_sanity_val_steps=0, use_distributed_sampler=False, logger=False,
                default_root_dir=tmp_path,
                callbacks=[callback], enable_progress_bar=False, enable_model_summary=False,
                enable_checkpointing=False,
            ).fit(scorer, datamodule=ContrastData(**small_sets))  # fmt: skip
        return scorer, callback, written

    return run


def shown(callback: SteeringCallback) -> str:
    return repr([asdict(s) for s in [*callback.samples, *(s for arm in callback.random for s in arm)]] + callback.looks)


def test_the_same_steering_writes_nothing_the_second_time_and_shows_the_same(steer) -> None:
    first, before, written = steer()
    second, after, again = steer()
    assert written > 0
    assert again == 0
    assert shown(after) == shown(before)
    assert second.steering_found == first.steering_found
    assert second.direction().recommended == first.direction().recommended


@pytest.mark.parametrize(
    "settings", [{"seed": 1}, {"strengths": (0.5,)}, {"n_random": 2}, {"prompts": ["Sing."]}, {"max_new_tokens": 7}]
)
def test_another_steering_is_written_anew(steer, settings: dict[str, object]) -> None:
    steer()
    assert steer(**settings)[2] > 0


def test_a_damaged_file_is_not_used_and_without_a_cache_nothing_is_kept(steer, tmp_path: Path) -> None:
    _, before, _ = steer()
    (file,) = (tmp_path / "cache/steered").glob("*.json")
    file.write_text(file.read_text().replace('"seed": 0', '"seed": 1'))
    _, after, written = steer()
    assert written > 0
    assert shown(after) == shown(before)
    assert steer(cache=None)[2] > 0
    assert steer(cache=None)[2] > 0
