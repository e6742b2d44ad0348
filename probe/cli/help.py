"""The help of Lightning's verbs: this project's options and the Trainer's that people use, without importing Lightning."""

from collections.abc import Container, Sequence
from typing import Any

from probe.cli.outline import Option, options
from probe.cli.plugins import DATA, SCORERS
from probe.cli.preflight import given
from probe.options.parsing import OneSentence

TRAINER = (
    "accelerator", "devices", "num_nodes", "strategy", "precision", "max_epochs", "max_time", "default_root_dir",
    "enable_progress_bar", "deterministic",
)  # fmt: skip
OF_FIT = {"--resume": "go on where the same command was stopped"}
OF_THE_REST = {"--ckpt_path": "a checkpoint's file, or last: the newest of this run"}


def print_help(verb: str, says: str, defaults: dict[str, Any], argv: Sequence[str]) -> None:
    """Prints the options of a verb; those of `model` and `data` are of the classes that `argv` names."""
    scorer = _named(argv, "model", SCORERS) or "MeanDifference"
    data = _named(argv, "data", DATA) or "ContrastData"
    parser = OneSentence(
        prog=f"probe {verb}", usage=f"probe {verb} --config NAME_OR_FILE [options]", description=says, add_help=False
    )
    run = parser.add_argument_group("the run")
    run.add_argument("--config", help="YAML: a file, or the name of a config that comes with probe, such as quickstart")
    run.add_argument("--seed_everything", type=int, default=0, help="of everything that is drawn in training")
    for option, meaning in (OF_FIT if verb == "fit" else OF_THE_REST).items():
        run.add_argument(option, action="store_true" if verb == "fit" else "store", help=meaning)
    run.add_argument("--strict", action="store_true", help="short for --lm.strict true")
    run.add_argument("--plugin", help="a package of your own, whose scorers --model may name")
    run.add_argument("--help", help="this; `--help all` is the whole help, with everything of Lightning's")
    _add(parser, "lm: the language model", "lm", options("lm"))
    title = f"data: what is learned from and judged on, here {data} (--data NAME of {', '.join(DATA)})"
    _add(parser, title, "data", options("data", data))
    model = _add(parser, f"model: the scorer, here {scorer}", "model", options("model", scorer))
    model.description = (
        f"--model NAME is one of {', '.join(SCORERS)}; with --help beside it, this section shows its options."
    )
    _add(parser, "steering: what is shown while it fits", "steering", options("steering"))
    of_trainer = options("trainer")
    shown = {
        name: Option(None, defaults.get(name, option.default), option.help.partition(" Default: ``")[0])
        for name, option in of_trainer.items()
        if name in TRAINER
    }
    _add(parser, f"trainer: {len(TRAINER)} of Lightning's {len(of_trainer)} options", "trainer", shown)
    parser.print_help()


def _named(argv: Sequence[str], section: str, known: Container[str]) -> str:
    """The class of a section, where one that is known is named."""
    named = [str(s.value).rpartition(".")[2] for s in given(argv) if s.key in (section, f"{section}.class_path")]
    return named[-1] if named and named[-1] in known else ""


def _add(parser: OneSentence, title: str, section: str, found: dict[str, Option]) -> Any:
    group = parser.add_argument_group(title)
    for name, option in found.items():
        of = {"type": option.type} if option.type else {}
        group.add_argument(f"--{section}.{name}", **of, default=option.default, help=option.help.replace("%", "%%"))
    return group
