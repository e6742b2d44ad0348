"""doctor says what holds of a model, and what its own files would have changed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import ARCHITECTURES, HYBRIDS, build_model, build_tokenizer

from probe.cli import main
from probe.lm.checks import outcome
from probe.lm.diagnosis import (
    DIAGNOSIS,
    layer_k_is_hidden_states_k_plus_1,
    overridden,
    steering_by_nothing_changes_nothing,
    writing_with_the_cache_is_writing_without,
)
from probe.lm.frozen import FrozenLM

MakeLM = Callable[..., FrozenLM]


def diagnosed(folder: Path, output: Path) -> tuple[int, dict]:
    code = main(["doctor", "--lm.model", str(folder), "--lm.device", "cpu", "--output", str(output)])
    return code, json.loads(output.read_text())


def test_a_sound_model_is_said_to_be_one_with_what_it_costs(
    tiny_lm_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, report = diagnosed(tiny_lm_folder, tmp_path / "report.json")
    assert code == 0 and report["fit"]
    assert set(report["checks"]) == {check.name for check in DIAGNOSIS}
    assert all(found["holds"] for found in report["checks"].values())
    assert "tokens a second" in report["facts"]["reads"]
    said = capsys.readouterr().out
    assert "It can be read and steered here." in said and "layer k is hidden_states[k + 1]" in said


def test_what_cannot_be_used_is_a_table_too_and_another_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build_model("gemma3n_text").save_pretrained(tmp_path / "lm")
    build_tokenizer().save_pretrained(tmp_path / "lm")
    code, report = diagnosed(tmp_path / "lm", tmp_path / "report.json")
    assert code == 3 and not report["fit"]
    assert not report["checks"]["every block gives one state a token"]["holds"]
    assert "its block 0 gives [4, 1, 11, 32]" in report["checks"]["every block gives one state a token"]["found"]
    assert "can NOT be used here" in capsys.readouterr().out


def test_what_a_generation_config_would_have_changed_is_named(tiny_lm: FrozenLM, tmp_path: Path) -> None:
    model = build_model("llama")
    model.generation_config.update(repetition_penalty=1.3, do_sample=True, temperature=0.6)
    assert overridden(model.generation_config) == {"repetition_penalty": 1.3, "do_sample": True, "temperature": 0.6}
    assert overridden(tiny_lm.model.generation_config) == overridden(None) == {}


@pytest.mark.parametrize("architecture", sorted({**ARCHITECTURES, **HYBRIDS} - {"recurrent_gemma": 0}.keys()))
def test_reading_steering_and_writing_are_as_said_in_every_architecture(make_lm: MakeLM, architecture: str) -> None:
    lm = make_lm(architecture)
    assert not {check.name: found for check in DIAGNOSIS if check.needed and (found := outcome(check, lm))}
    assert writing_with_the_cache_is_writing_without(lm) is None


def test_a_block_that_gives_another_state_than_transformers_says_is_found(make_lm: MakeLM) -> None:
    lm = make_lm("llama")
    model = lm.model
    real = model.forward

    def shifted(*args: object, **kwargs: object) -> object:
        found = real(*args, **kwargs)
        if found.hidden_states:
            found.hidden_states = (*found.hidden_states[2:], *found.hidden_states[:2])
        return found

    model.forward = shifted  # type: ignore[method-assign]
    assert "the output of block 0 is another state" in (layer_k_is_hidden_states_k_plus_1(lm) or "")


def test_steering_that_leaks_or_does_nothing_is_found(make_lm: MakeLM, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = make_lm("llama")
    from probe.lm import diagnosis, hooks

    def leaky(vectors: dict, *rest: object) -> object:
        return hooks.edit({block: vector + 1e-3 for block, vector in vectors.items()})

    monkeypatch.setattr(diagnosis, "edit", leaky)
    assert "logits at strength 0" in (steering_by_nothing_changes_nothing(lm) or "")
    monkeypatch.setattr(diagnosis, "edit", lambda vectors: hooks.edit({b: 0 * v for b, v in vectors.items()}))
    assert "changes no logit" in (steering_by_nothing_changes_nothing(lm) or "")


def test_a_cache_that_forgets_is_found(make_lm: MakeLM, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = make_lm("llama")
    from probe.lm import diagnosis

    real = diagnosis.continued

    def forgetful(
        model: object, ids: torch.Tensor, mask: torch.Tensor, n: int, use_cache: bool, **options: object
    ) -> object:
        found = real(model, ids, mask, n, use_cache=use_cache, **options)  # type: ignore[arg-type]
        if use_cache:
            found.logits = (found.logits[0], *(torch.roll(step, 1, -1) for step in found.logits[1:]))
        return found

    monkeypatch.setattr(diagnosis, "continued", forgetful)
    assert "token 2 has other logits with the cache" in (writing_with_the_cache_is_writing_without(lm) or "")
