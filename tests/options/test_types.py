"""Every number that can be given has its range, and is a plain number behind the parser; paths know their home."""

import inspect
import math
import typing
from importlib import import_module
from pathlib import Path
from typing import Any

import jsonargparse
import pytest
import yaml

from probe import scorers
from probe.cli.commands import MODULES
from probe.cli.front import COMMANDS, main
from probe.cli.plugins import SCORERS
from probe.data.splits import ContrastData
from probe.lm.chat import Endpoint
from probe.lm.spec import Budget, Contestant, ContrastFiles, DataFiles, LMSpec
from probe.options import types as option_types
from probe.steering.callback import SteeringCallback
from probe.steering.settings import Demonstration
from probe.verbs.compare.command import ComparedData
from probe.verbs.sweep.command import Writing

VERBS = {verb: import_module(f"probe.verbs.{MODULES.get(verb, verb)}") for verb in COMMANDS}
OPTIONS_OF: list[Any] = [
    *(module.run for module in VERBS.values()),
    *(getattr(scorers, name) for name in SCORERS),
    *(
        ContrastData,
        SteeringCallback,
        LMSpec,
        Contestant,
        Budget,
        DataFiles,
        ContrastFiles,
        Writing,
        Endpoint,
        Demonstration,
    ),
    ComparedData,
]


def named(hint: Any) -> set[Any]:
    """All types that an annotation names."""
    return {hint}.union(*(named(part) for part in typing.get_args(hint)))


@pytest.mark.parametrize("taker", OPTIONS_OF, ids=lambda taker: f"{taker.__module__}.{taker.__qualname__}")
def test_no_option_is_a_number_without_a_range(taker: Any) -> None:
    for one in taker.__mro__ if inspect.isclass(taker) else [taker]:
        if one.__module__.startswith("probe."):
            hints = typing.get_type_hints(one.__init__ if inspect.isclass(one) else one) | {"return": None}
            found = {name for name, hint in hints.items() if named(hint) & {int, float}}
            assert found <= {"chat_template_kwargs"}, one  # what a template is told has no range of ours


def parsed(kind: Any, value: Any) -> Any:
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--x", type=kind)
    return parser.parse_object({"x": value}).x


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("PositiveInt", [1, 7, "7"], [0, -1, 1.5, True, math.nan, "x", [], None]),
        ("NonNegativeInt", [0, 7], [-1, 0.5, False]),
        ("AtLeastTwo", [2], [1]),
        ("Seed", [0, 2**32 - 1], [-1, 2**32]),
        ("Port", [0, 8000, 2**16 - 1], [-1, 2**16]),
        ("Finite", [-1.5, 0, 3], [math.nan, math.inf, -math.inf, True]),
        ("PositiveFloat", [0.1, 1], [0, -0.1, math.nan, math.inf]),
        ("NonNegativeFloat", [0, 0.1], [-0.1, math.nan, math.inf]),
        ("AtLeastOne", [1, 1.5], [0.9, math.inf]),
        ("Share", [0.2], [0, 1, -1, math.nan]),
        ("KeyVariable", ["MY_API_KEY", "HF_TOKEN"], ["HOME", "A_TOKEN\n", "A_API_KEY_B", "", "a b_TOKEN"]),
    ],
)
def test_a_type_takes_its_range_alone_and_gives_plain_values(kind: str, good: list[Any], bad: list[Any]) -> None:
    type_ = getattr(option_types, kind)
    for value in good:
        assert type(parsed(type_, value)) in (int, float, str)
    for value in bad:
        if value is not None:
            with pytest.raises(jsonargparse.ArgumentError):
                parsed(type_, value)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ("fit --lm.max_tokens=-5", "--lm.max_tokens: expected PositiveInt, but -5"),
        ("fit --data.init_args.fractions=[-1,0.5]", "fractions: expected OpenUnitInterval, but -1"),
        ("fit --steering.strengths=[]", "steering.strengths: expected one value or more"),
        ("fit --steering.strengths=[.nan]", "steering.strengths: expected Finite, but "),
        ("fit --steering.n_prompts=-1", "--steering.n_prompts: expected NonNegativeInt, but -1"),
        ("fit --steering.every_n_epochs=0", "--steering.every_n_epochs: expected PositiveInt, but 0"),
        ("fit --model=LinearProbe --model.init_args.C=-1", "C: expected FinitePositive, but -1"),
        ("fit --model.init_args.layers=[]", "layers: expected one value or more"),
        ("sweep --data.pairs=x --strengths=[]", "strengths: expected one value or more"),
        ("sweep --data.pairs=x --strengths=[1,-1]", "--strengths: expected FinitePositive, but "),
        ("stories --data.pairs=x --steering.strengths=[]", "steering.strengths: expected one value or more"),
        ("stories --data.pairs=x --endpoint.model=m --endpoint.timeout=0", "timeout: expected FinitePositive, but "),
        ("generate p --temperature=-1", "--temperature: expected FiniteNonNegative, but -1"),
        ("generate p --strength=[1,.inf]", "--strength: expected Finite, but "),
        ("pairs --input=i --output=o --max_new_tokens=0", "--max_new_tokens: expected PositiveInt, but 0"),
    ],
)
def test_a_number_out_of_its_range_is_refused_in_one_sentence(
    argv: str, says: str, small_sets: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    verb, *options = argv.split()
    data = {k: v for k, v in small_sets.items() if k != "test_preferences"}
    given = ["--model=MeanDifference", "--data=ContrastData"] + [f"--data.init_args.{k}={v}" for k, v in data.items()]
    assert main([verb, *(given if verb == "fit" else []), *options]) == 2
    err = capsys.readouterr().err
    assert f"error: {says}" in err or says in err
    assert len(err[err.index("error:") :].strip().splitlines()) == 1


def test_a_tilde_in_a_config_is_the_home_folder(
    tiny_lm_folder: Path, small_sets: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(Path(tiny_lm_folder).parent))
    for name, path in small_sets.items():
        if Path(path).exists():
            (tiny_lm_folder.parent / f"{name}.jsonl").write_text(Path(path).read_text())
    data = {k: f"~/{k}.jsonl" for k in small_sets if k != "test_preferences"}
    config = {
        "lm": {"model": f"~/{tiny_lm_folder.name}", "device": "cpu"},
        "model": {"class_path": "MeanDifference", "init_args": {"cache_dir": "~/cache"}},
        "data": {"class_path": "ContrastData", "init_args": data},
        "steering": {"n_prompts": 0},
        "trainer": {"enable_progress_bar": False},
    }
    Path("home.yaml").write_text(yaml.safe_dump(config))
    assert main(["fit", "--config", "home.yaml"]) == 0
    assert (tiny_lm_folder.parent / "cache").is_dir()
    assert not Path("~").exists()


@pytest.mark.parametrize("text", ["# Speak as a poet.", "&c", "a: b # c", "[x] y", "# a\n# b"])
def test_a_text_that_yaml_would_take_for_something_else_is_a_text(
    text: str, capsys: pytest.CaptureFixture[str], small_sets: dict[str, str]
) -> None:
    given = ["--model=MeanDifference", "--data=ContrastData", f"--data.init_args.pairs={small_sets['pairs']}"]
    assert main(["fit", *given, f"--lm.system={text}", "--print_config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["lm"]["system"] == text
