"""A misspelt option or value of `fit` is answered with what was meant, before anything slow is imported."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from jsonargparse import ArgumentParser
from lightning import Trainer

import probe
from probe.cli import main
from probe.cli.outline import SECTIONS, options
from probe.cli.plugins import SCORERS
from probe.cli.spelling import OF_A_RUN, check_spelling
from probe.errors import ProbeError

QUICKSTART = ("fit", "--config", str(Path(probe.__file__).parents[1] / "configs/organism.yaml"))


def refusal(*argv: str, plugins: bool = False) -> str:
    with pytest.raises(ProbeError) as refused:
        check_spelling(argv, plugins)
    return str(refused.value)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--model", "LinearPorbe"], "--model: expected BagOfWords, .*; did you mean LinearProbe?"),
        (["--model.init_args.span", "respnse"], "--model.init_args.span: expected prompt, reply or .*; did you mean response?"),
        (["--model.span=respnse"], "--model.span: expected prompt, reply or response"),
        (["--model.layers", "99"], "--model.layers: expected a list in brackets, each int >= 0 or null, found '99'"),
        (["--model.init_args.layers", "[1, 99]"], "--model.init_args.layers: data/storyteller/lm0 has blocks 0 to 4, found 99"),
        (["--model=LoRAProbe", "--model.layer=5"], "--model.layer: data/storyteller/lm0 has blocks 0 to 4, found 5"),
        (["--model.pooing", "last"], "--model.pooing: expected span, .*, found pooing; did you mean pooling?"),
        (["--model", "{class_path: PCA, init_args: {spam: prompt}}"], "--model.init_args.spam: expected .*; did you mean span?"),
        (["--model.C", "3"], "found C; `--help all` shows every option."),
        (["--lm.modell", "x"], "--lm.modell: expected .*; did you mean model?"),
        (["--lm.dtype", "float23"], "did you mean float32?"),
        (["--lm.strict", "perhaps"], "--lm.strict: expected true or false, found 'perhaps'"),
        (["--data.pears", "x"], "did you mean pairs?"),
        (["--data", "ContrastDate"], "did you mean ContrastData?"),
        (["--data.fractions", "[0.2]"], "--data.fractions: expected a list of 2, each float > 0 and < 1, found '[0.2]'"),
        (["--steering.max_new_tokens", "0"], "--steering.max_new_tokens: expected PositiveInt, but 0"),
        (["--trainer.max_epoch", "3"], "--trainer.max_epoch: expected an option of trainer, .*; did you mean max_epochs?"),
        (["--trainr.max_epochs", "3"], "--trainr.max_epochs: expected a section .*; did you mean trainer?"),
        (["--confg", "x"], "did you mean config?"),
        (["--seed_everything", "-1"], "--seed_everything: expected Seed, but -1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)  # fmt: skip
def test_a_slip_is_answered_with_the_choices_under_the_name_that_was_typed(words: list[str], says: str) -> None:
    told = refusal(*QUICKSTART, *words)
    start, _, end = says.partition(".*")
    assert start in told
    assert end in told
    assert "\n" not in told


def test_a_slip_in_a_config_is_answered_with_its_file(tmp_path: Path) -> None:
    for section, says in (
        ({"model": {"class_path": "MeanDifference", "init_args": {"span": "respnse"}}}, "model.init_args.span: expected prompt"),
        ({"model": {"init_args": {"C": 1.0}, "class_path": "PCA"}}, "model.init_args.C: expected span"),
        ({"modle": {}}, "modle: expected a section or an option of a run, found modle; did you mean model?"),
        ({"steering": {"strengths": 2}}, "steering.strengths: expected a list in brackets, each float or null, found '2'"),
    ):  # fmt: skip
        (tmp_path / "own.yaml").write_text(yaml.safe_dump(section, sort_keys=False))
        assert refusal("fit", "--config", f"{tmp_path}/own.yaml").startswith(f"--config {tmp_path}/own.yaml: {says}")


def test_what_is_right_passes_and_what_is_another_classs_is_left_to_the_parser(tmp_path: Path) -> None:
    check_spelling(
        (*QUICKSTART, "--model=LinearProbe", "--model.C=0.1", "--model.init_args.layers=[0,4]", "--lm.strict")
    )
    check_spelling((*QUICKSTART, "--model=my.Scorer", "--model.anything=3"))
    check_spelling((*QUICKSTART, "--model", "TheirScorer", "--model.anything=3"), plugins=True)
    check_spelling((*QUICKSTART, "--seed_everything", "1", "--trainer.logger.init_args.save_dir=x", "--print_config"))
    check_spelling((*QUICKSTART, "--lm.chat_template_kwargs.enable_thinking=false", "--steering.strengths+=3"))
    own = {
        "lm": {"chat_template_kwargs": {}, "system": None},
        "model": {"class_path": "probe.scorers.linear_probe.LinearProbe"},
    }
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own | {"steering": {"temperature": 1e-3}, "ckpt_path": None}))
    check_spelling(("fit", "--config", f"{tmp_path}/own.yaml", "--model.C=0.1"))


def test_blocks_are_counted_in_the_config_of_the_model_where_it_names_them(tmp_path: Path) -> None:
    asked = ("fit", "--model=PCA", "--model.layers=[3]", "--lm.model", str(tmp_path))
    for config in ({"num_hidden_layers": 3}, {"n_layer": 3}, {"text_config": {"num_hidden_layers": 3}}):
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert f"{tmp_path} has blocks 0 to 2, found 3" in refusal(*asked)
    for config in ({"num_hidden_layers": 4}, {}, [1]):
        (tmp_path / "config.json").write_text(json.dumps(config))
        check_spelling(asked)


@pytest.mark.parametrize("scorer", SCORERS)
def test_the_outline_of_a_scorer_is_what_the_parser_of_a_run_takes_for_it(scorer: str) -> None:
    assert outline("model", scorer) == parsed(getattr(probe, scorer), skip={"lm"})


def test_the_outline_of_every_other_section_is_what_the_parser_of_a_run_takes_for_it() -> None:
    for section, of in (("data", probe.ContrastData), ("steering", probe.SteeringCallback)):
        assert outline(section) == parsed(of)
    of_lm = parsed(probe.LMSpec)
    assert outline("lm") == of_lm | {
        "chat_template_kwargs": (of_lm["chat_template_kwargs"][0], None)
    }  # made by a factory
    assert options("trainer").keys() == {name for name in parsed(Trainer)}


def outline(section: str, scorer: str = "") -> dict[str, tuple[object, object]]:
    return {name: (option.type, option.default) for name, option in options(section, scorer).items()}


def parsed(of: type, skip: set[str] = frozenset()) -> dict[str, tuple[object, object]]:
    """Name -> type and default of each option that jsonargparse makes of a class."""
    parser = ArgumentParser()
    parser.add_class_arguments(of, "it", skip=skip)
    return {
        action.dest.removeprefix("it."): (action._typehint, action.default)
        for action in parser._actions
        if action.dest.startswith("it.") and not action.dest.endswith(".help")
    }


def test_every_option_of_the_whole_help_is_in_the_outline_and_it_ends_with_lightnings(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for verb in ("fit", "predict"):
        assert main([verb, "--help", "all"]) == 0
        shown = set(re.findall(r"^  (?:-\w.*, )?--([\w.]+)", capsys.readouterr().out, re.MULTILINE))
        assert {"trainer.barebones", "steering.strengths", "lm.model", "model", "data"} <= shown
        for name in shown:
            section, _, rest = name.partition(".")
            assert section in OF_A_RUN | SECTIONS.keys(), name
            assert not rest or rest == "help" or section == "model" or rest.split(".")[0] in options(section), name


def test_the_help_of_fit_shows_ours_first_without_importing_lightning() -> None:
    code = "import sys; from probe.cli import main; main({}); assert not {{'torch', 'lightning'}} & sys.modules.keys()"
    argv = ["fit", "--help", "--model", "LoRAProbe"]
    shown = subprocess.run([sys.executable, "-c", code.format(argv)], capture_output=True, text=True, check=True).stdout
    for name in (
        "--lm.model",
        "--data.pairs",
        "--model.rank",
        "--steering.strengths",
        "--trainer.max_epochs",
        "help all",
    ):
        assert name in shown
    assert "Rank of the adapters." in shown
    assert shown.index("--model.rank") < shown.index("--trainer.accelerator")
    assert len(shown.splitlines()) < 250
    assert "--trainer.barebones" not in shown


def test_a_slip_is_refused_before_lightning_is_imported() -> None:
    code = "import sys; from probe.cli import main; assert main({}) == 2; assert 'torch' not in sys.modules"
    argv = [*QUICKSTART, "--model", "LinearPorbe"]
    run = subprocess.run([sys.executable, "-c", code.format(argv)], capture_output=True, text=True, check=True)
    assert run.stderr.startswith("error: --model: expected BagOfWords")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["generate", "Hi", "--strenght", "3"], "found --strenght; did you mean --strength?"),
        (["audit", "--data.pairs=data/creativity/pairs.jsonl", "--span=respnse"], "found 'respnse'; did you mean response?"),
        (["compare", "--config", "compre"], "did you mean compare?"),
    ],
)  # fmt: skip
def test_the_other_verbs_say_what_was_meant_too(
    capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    assert main(words) == 2
    assert says in capsys.readouterr().err
