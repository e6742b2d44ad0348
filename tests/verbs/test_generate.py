"""Steered texts beside plain ones: the same as the library writes, shown as they come, and refused in one sentence."""

import io
import json
import os
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import n_hooks

from probe.cli import main
from probe.directions.direction import Direction, Recommended, random_directions
from probe.lm.frozen import FrozenLM
from probe.lm.hooks import edit
from probe.lm.operators import OPERATORS, without
from probe.lm.spec import LMSpec
from probe.show import side_by_side
from probe.shown.terminal import Terminal
from probe.steering.arms import Arm, write
from probe.steering.dose import SAFE_KL, with_dose
from probe.steering.settings import Sampling
from probe.verbs.generate import arms_of, show

PROMPTS = ("Write a story about a lamp.", "Tell me: who sings?")
GAP = 3.0


@pytest.fixture(scope="module")
def lm(tiny_lm_folder: Path) -> FrozenLM:
    return FrozenLM.load(LMSpec(str(tiny_lm_folder), device="cpu"))


@pytest.fixture
def direction(lm: FrozenLM) -> Direction:
    """Of layers 0 and 1 of three, with layer 1 chosen; its gaps and norms are no round numbers by accident."""
    return Direction(
        vectors=random_directions(1, (0, 1), lm.hidden_size, 0)[0],
        layers=(0, 1),
        residual_gap=torch.tensor([1.5, GAP]),
        residual_norm=torch.tensor([5.0, 7.0]),
        score_midpoint=torch.zeros(2),
        score_gap=torch.ones(2),
        chosen=1,
        provenance={
            "method": "MeanDifference",
            "lm": lm.spec.model,
            "lm_dtype": "float32",
            "lm_fingerprint": lm.fingerprint,
        },
    )


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direction: Direction) -> Path:
    """A working folder with the direction of one run."""
    monkeypatch.chdir(tmp_path)
    direction.save(Path("lightning_logs/probe/version_0/direction"))
    return tmp_path


def command(*prompts: str, **options: Any) -> tuple[str, ...]:
    """The verb with eight tokens a text, on the CPU; options by name."""
    options = {"max_new_tokens": 8, "lm.device": "cpu", "output": "texts.jsonl"} | options
    return ("generate", *prompts, *(f"--{name}={value}" for name, value in options.items()))


def written(*prompts: str, **options: Any) -> list[dict[str, Any]]:
    """The records that the verb writes."""
    assert main(command(*prompts, **options)) == 0
    return [json.loads(line) for line in Path("texts.jsonl").read_text(encoding="utf-8").splitlines()]


def texts_of(lm: FrozenLM, deltas: dict[int, torch.Tensor], how: Sampling | None = None) -> list[str]:
    """What the library writes for both prompts, one at a time."""
    return [write(lm, [(prompt, Arm("x", deltas))], how or Sampling(8))[0] for prompt in PROMPTS]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_each_column_is_what_the_library_writes_with_that_delta(
    here: Path, lm: FrozenLM, direction: Direction, temperature: float
) -> None:
    records = written(*PROMPTS, strength=[1.0, -2.5], strength_unit="gap", temperature=temperature, seed=3)
    assert [(r["prompt"], r["strength"]) for r in records] == [(p, s) for p in PROMPTS for s in (0.0, 1.0, -2.5)]
    how = Sampling(8, temperature, seed=3)
    plain = [lm.generate([prompt], 8, temperature, 3)[0] for prompt in PROMPTS]
    columns = {s: [r["text"] for r in records if r["strength"] == s] for s in (0.0, 1.0, -2.5)}
    assert columns[0.0] == plain
    for strength in (1.0, -2.5):
        assert columns[strength] == texts_of(lm, {1: strength * GAP * direction.vectors[1]}, how) != plain
    assert columns[1.0] != columns[-2.5]


def test_prompts_stand_before_or_after_the_options_and_are_text_whatever_they_look_like(here: Path) -> None:
    odd = ("null", "[1, 2]", "{a: b}", "Tell me: 12")
    verb, *options = command(strength=0)
    for words in ((verb, *odd, *options), (verb, *options, *odd)):
        assert main(words) == 0
        assert [json.loads(line)["prompt"] for line in Path("texts.jsonl").read_text().splitlines()] == list(odd)
        Path("texts.jsonl").unlink()


@pytest.mark.parametrize(("unit", "scale"), [("gap", 1.5), ("norm", 5.0), ("absolute", 1.0)])
def test_a_strength_is_converted_at_the_layer_that_is_steered(
    here: Path, lm: FrozenLM, direction: Direction, unit: str, scale: float
) -> None:
    records = written(*PROMPTS, strength=2, strength_unit=unit, layer=0)
    assert {(r["layer"], r["strength_unit"], r["seed"]) for r in records} == {(0, unit, 0)}
    assert [r["text"] for r in records][1::2] == texts_of(lm, {0: 2 * scale * direction.vectors[0]})
    plain, arm = arms_of(direction, Recommended([0], 1.0, unit, "all"), [2.0])
    assert not plain.vectors
    assert torch.allclose(arm.vectors[0], 2 * scale * direction.vectors[0])


def test_a_prompt_that_leaves_no_room_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command("Sing. " * 300)) == 2
    assert "leaves no room for 8 new ones within the 1024" in " ".join(capsys.readouterr().err.split())


def test_several_layers_share_the_strength_out(here: Path, lm: FrozenLM, direction: Direction) -> None:
    records = written(*PROMPTS, strength=4, strength_unit="gap", layer="[0, 1]")
    assert [r["text"] for r in records][1::2] == texts_of(
        lm, {k: 2 * (1.5, GAP)[k] * direction.vectors[k] for k in (0, 1)}
    )
    assert records[-1]["layer"] == [0, 1]


def test_the_direction_is_taken_out_at_every_layer_that_it_has_or_at_those_asked_for(
    here: Path, lm: FrozenLM, direction: Direction, capsys: pytest.CaptureFixture[str]
) -> None:
    for options, layers in (({}, (0, 1)), ({"layer": 1}, (1,))):
        records = written(*PROMPTS, ablate="true", **options)
        with edit({lm.blocks[k]: direction.vectors[k] for k in layers}, without):
            expected = [lm.generate([prompt], 8, 0.8, 0)[0] for prompt in PROMPTS]
        assert [r["text"] for r in records if r["operator"] == "without"] == expected
        assert [r["text"] for r in records if r["arm"] == "plain"] == texts_of(lm, {})
    assert "by `without`" in " ".join(capsys.readouterr().out.split())
    assert main(command(PROMPTS[0], ablate="true", strength=1)) == 2
    assert "expected no strength beside it" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_operator_writes_what_the_library_writes_with_it_at_the_tokens_that_are_meant(
    here: Path, lm: FrozenLM, direction: Direction, operator: str
) -> None:
    how = {} if operator == "without" else {"strength": 2, "strength_unit": "gap"}
    for tokens in ("all", "generated"):
        records = written(*PROMPTS, operator=operator, tokens=tokens, layer=1, **how)
        arm = Arm("x", {1: 2 * GAP * direction.vectors[1]}, operator=operator)
        expected = [write(lm, [(prompt, arm)], Sampling(8, tokens=tokens))[0] for prompt in PROMPTS]
        assert [r["text"] for r in records if r["arm"] != "plain"] == expected
        assert {r["operator"] for r in records if r["arm"] != "plain"} == {operator}


def test_the_prompt_or_the_text_alone_can_be_steered(here: Path, lm: FrozenLM, direction: Direction) -> None:
    found = {}
    for tokens in ("all", "prompt", "generated"):
        found[tokens] = [r["text"] for r in written(*PROMPTS, strength=4, strength_unit="gap", tokens=tokens)][1::2]
        assert found[tokens] == texts_of(lm, {1: 4 * GAP * direction.vectors[1]}, Sampling(8, tokens=tokens))
    assert len({tuple(texts) for texts in found.values()}) == 3


def test_the_newest_direction_is_taken_and_named(
    here: Path, direction: Direction, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = replace(direction, chosen=0).save(Path("lightning_logs/compare/version_7/direction"))
    os.utime("lightning_logs/probe/version_0/direction/direction.json", (1, 1))
    assert {r["layer"] for r in written(PROMPTS[0])} == {0}
    said = " ".join(capsys.readouterr().out.split())
    for word in (str(newest), "MeanDifference", str(direction.provenance["lm"]), "after layer 0"):
        assert word in said
    os.utime(newest / "direction.json", (0, 0))
    assert {r["layer"] for r in written(PROMPTS[0])} == {1}
    assert {r["layer"] for r in written(PROMPTS[0], direction=newest)} == {0}


def test_what_the_direction_recommends_holds_unless_an_option_says_otherwise(here: Path, direction: Direction) -> None:
    def setting(**options: Any) -> tuple[float, str, int]:
        record = written(PROMPTS[0], **options)[-1]
        return record["strength"], record["strength_unit"], record["layer"]

    assert setting() == (1.0, "dose", 1)
    recommended = {"layer": 0, "strength": 0.4, "strength_unit": "norm"}
    replace(direction, chosen=1, provenance=direction.provenance | {"recommended": recommended}).save(
        Path("lightning_logs/probe/version_0/direction")
    )
    assert setting() == (0.4, "norm", 0)
    assert setting(layer=1) == (0.4, "norm", 1)
    assert setting(strength=3) == (3.0, "dose", 0)
    assert setting(strength=3, strength_unit="absolute") == (3.0, "absolute", 0)
    replace(
        direction, chosen=1, provenance=direction.provenance | {"recommended": recommended | {"tokens": "generated"}}
    ).save(Path("lightning_logs/probe/version_0/direction"))
    at = {"strength": 4, "strength_unit": "gap"}
    found = [written(PROMPTS[0], **at, **options)[-1]["text"] for options in ({}, {"tokens": "all"})]
    assert found[0] == written(PROMPTS[0], **at, tokens="generated")[-1]["text"] != found[1]


def test_without_a_strength_that_was_tried_it_steers_by_one_dose_measured_on_the_prompts_and_says_what_that_is(
    here: Path, lm: FrozenLM, direction: Direction, capsys: pytest.CaptureFixture[str]
) -> None:
    records = written(*PROMPTS)
    dosed = with_dose(lm, direction, [1], PROMPTS, Sampling(8))
    assert [r["text"] for r in records][1::2] == texts_of(lm, dosed.deltas(1.0, "dose", [1]))
    said = " ".join(capsys.readouterr().out.split())
    assert f"One dose is {dosed.provenance['dose']['of_layer']['1']:.3g} at layer 1" in said
    assert f"{SAFE_KL:g} nats a token" in said
    dosed.save(Path("known"))
    assert written(*PROMPTS, direction="known") == records


def test_a_direction_is_named_by_its_folder_its_runs_folder_or_its_runs_name(
    here: Path, direction: Direction, capsys: pytest.CaptureFixture[str]
) -> None:
    replace(direction, chosen=0).save(Path("lightning_logs/try/version_0/direction"))
    os.utime("lightning_logs/probe/version_0/direction/direction.json", (1, 1))
    run = "lightning_logs/probe/version_0"
    named = [{"direction": run}, {"direction": f"{run}/direction"}]
    named += [{"run": name} for name in (run, f"{run}/direction", "probe/version_0", "probe", str(here / run))]
    assert [written(PROMPTS[0], strength=0, **options)[0]["layer"] for options in named] == [1] * 7
    for name in ("newest", "try", "try/version_0"):
        assert written(PROMPTS[0], strength=0, run=name)[0]["layer"] == 0, name
    capsys.readouterr()
    assert main(command(PROMPTS[0], run="version_0")) == 2
    assert (
        "expected the name of one run, found lightning_logs/try/version_0, lightning_logs/probe"
        in capsys.readouterr().err
    )
    assert Direction.load(run).chosen == Direction.load(f"{run}/direction").chosen == 1


def test_prompts_come_from_the_standard_input(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{PROMPTS[0]}\n\n  {PROMPTS[1]}\n"))
    assert [r["prompt"] for r in written("Sing.", "-", strength=0)] == ["Sing.", *PROMPTS]


def test_the_model_is_the_one_the_direction_was_made_with(
    here: Path, lm: FrozenLM, direction: Direction, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[LMSpec] = []
    monkeypatch.setattr(FrozenLM, "load", lambda spec: (asked.append(spec), lm)[1])
    assert main(command("Sing.")) == 0
    assert main(command("Sing.", **{"lm.model": "another", "lm.dtype": "bfloat16"})) == 0
    assert [(spec.model, spec.dtype) for spec in asked] == [(lm.spec.model, "float32"), ("another", "bfloat16")]


def test_the_template_is_told_what_it_was_told_when_the_direction_was_made_or_what_an_option_says(
    here: Path, lm: FrozenLM, direction: Direction, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[LMSpec] = []
    monkeypatch.setattr(FrozenLM, "load", lambda spec: (asked.append(spec), lm)[1])
    told = {"lm_chat_template_kwargs": {"enable_thinking": False}}
    replace(direction, provenance=direction.provenance | told).save(Path("told"))
    assert main(command("Sing.", direction="told")) == 0
    option = {"lm.chat_template_kwargs": '{"enable_thinking": true, "effort": "low", "budget": 3}'}
    assert main(command("Sing.", direction="told", **option)) == 0
    assert [spec.chat_template_kwargs for spec in asked] == [
        {"enable_thinking": False},
        {"enable_thinking": True, "effort": "low", "budget": 3},
    ]


def test_streaming_shows_every_token_and_does_not_change_the_text(
    lm: FrozenLM, direction: Direction, monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = arms_of(direction, Recommended([1], 1.0, "gap", "all"), [2.0, -2.0])
    how = Sampling(8, seed=1)
    quiet, live = (Terminal(file=io.StringIO(), force_terminal=terminal, width=99) for terminal in (False, True))
    pages: list[list[str]] = []

    def page(prompt: str, names: list[str], texts: list[str]) -> Any:
        pages.append(list(texts))
        return side_by_side(prompt, names, texts)

    monkeypatch.setattr("probe.show.side_by_side", page)
    before = n_hooks(lm.model)
    whole = show(quiet, lm, PROMPTS[0], arms, how)
    assert pages == [whole] == [write(lm, [(PROMPTS[0], arm) for arm in arms], how)]
    assert "\x1b" not in quiet.file.getvalue()
    pages.clear()
    assert show(live, lm, PROMPTS[0], arms, how) == whole
    assert "\x1b" in live.file.getvalue()
    assert pages[-1] == pages[-2] == whole
    assert len(pages) == 8 + 1
    # A token is a byte here: all but what an unfinished character left stays as it was shown.
    for earlier, later in pairwise(pages):
        assert all(b.startswith(a.rstrip("\N{REPLACEMENT CHARACTER}")) for a, b in zip(earlier, later, strict=True))
    assert n_hooks(lm.model) == before


def test_no_hook_is_left_when_writing_is_interrupted(lm: FrozenLM, direction: Direction, monkeypatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = n_hooks(lm.model)
    console = Terminal(file=io.StringIO(), force_terminal=True)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("probe.show.side_by_side", interrupt)
        show(console, lm, PROMPTS[0], arms_of(direction, Recommended([1], 1.0, "gap", "all"), [2.0]), Sampling(8))
    assert n_hooks(lm.model) == before


def test_a_text_cannot_colour_the_page_or_command_the_terminal() -> None:
    console = Terminal(file=io.StringIO(), force_terminal=True, width=99)
    console.print(side_by_side("[red]ask[/red]", ["plain"], ["[bold]a[/bold] \x1b]0;title\x07 \x9b2J [/oops]"]))
    shown = console.file.getvalue()
    for text in ("[red]ask[/red]", "[bold]a[/bold]", "[/oops]"):
        assert text in shown
    assert not {"\x1b]", "\x07", "\x9b"} & {shown[i : i + n] for n in (1, 2) for i in range(len(shown))}


def test_a_model_with_other_weights_is_refused_unless_it_is_asked_for(
    here: Path, make_lm, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_lm(seed=1)
    other.model.save_pretrained("other")
    other.tokenizer.save_pretrained("other")
    options = {"lm.model": "./other"}
    capsys.readouterr()
    assert main(command("Sing.", **options)) == 2
    assert "error: this direction was made with other weights" in capsys.readouterr().err
    assert written("Sing.", **options, other_model="true")[0]["text"] == other.generate(["Sing."], 8, 0.8, 0)[0]


@pytest.mark.parametrize(
    ("prompt", "options", "says"),
    [
        ("Sing.", {"direction": "none"}, "none: expected a saved direction"),
        ("Sing.", {"direction": "unchosen"}, "expected a chosen layer in this direction, found none"),
        ("Sing.", {"direction": "nameless"}, "expected the name of its model"),
        ("Sing.", {"layer": 2}, "this direction holds layers [0, 1], found 2"),
        ("Sing.", {"direction": "odd"}, "`strength_unit` has to be one of"),
        (
            "Sing.",
            {"run": "version_7"},
            "--run version_7: expected a run with a saved direction, found none of that name",
        ),
        ("Sing.", {"run": "probe/version_0", "direction": "odd"}, "expected --direction or --run, found both"),
        ("Sing.", {"strength": ".inf"}, "--strength: expected Finite"),
        ("Sing.", {"strength": "[1.0, .nan]"}, "--strength: expected Finite"),
        ("Sing.", {"direction": "odd"}, "`strength_unit` has to be one of dose, gap, norm, absolute"),
        ("Sing.", {"strength_unit": "norm"}, "expected a strength beside it"),
        (" ", {}, "expected a prompt, found an empty one"),
        ("-", {}, "expected a prompt, found an empty one or none"),
        ("Sing.", {"max_new_tokens": 0}, "--max_new_tokens: expected PositiveInt"),
        ("Sing.", {"temperature": -1}, "--temperature: expected FiniteNonNegative"),
        ("Sing.", {"output": "nowhere/texts.jsonl"}, "expected its folder to be there"),
    ],
)
def test_bad_input_ends_in_one_sentence_before_the_weights_are_loaded(
    here: Path,
    direction: Direction,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    prompt: str,
    options: dict[str, Any],
    says: str,
) -> None:
    replace(direction, chosen=None).save(Path("unchosen"))
    replace(direction, provenance={}).save(Path("nameless"))
    replace(direction, chosen=1, provenance=direction.provenance | {"recommended": {"strength_unit": "metres"}}).save(
        Path("odd")
    )
    monkeypatch.setattr(FrozenLM, "load", lambda spec: pytest.fail("the weights were loaded"))
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    assert main(command(prompt, **options)) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith("error: ")
    assert says in sentence


def test_without_any_direction_it_says_to_run_fit_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(command("Sing.")) == 2
    assert "run `fit` or `try` first" in capsys.readouterr().err
