"""The verbs beside Lightning's: the parameters of a verb's `run` are its options; a config of `fit` serves them too."""

import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import yaml
from jsonargparse import ActionConfigFile  # type: ignore[attr-defined]

from probe.cli.outline import options
from probe.cli.plugins import DATA
from probe.cli.preflight import read_config
from probe.errors import ProbeError
from probe.options.parsing import OneSentence, check_settings

POSITIONAL = {
    "prompts": "what to answer; - reads one prompt a line from stdin",
    "files": "filled-in ballots, one for each person",
    "texts": "files of texts (.jsonl, .csv, or .txt with a text a line) or folders of texts; - reads stdin, a text a line",
}
SHARED = frozenset({"concept", "lm", "model", "data", "steering", "trainer", "seed_everything", "ckpt_path"})
"""Sections of Lightning's verbs: one file serves all verbs, so a command passes over those that it does not use."""


MODULES = {"try": "try_it"}
"""Where a verb cannot be the name of its own module."""


def run_command(verb: str, argv: Sequence[str]) -> int:
    """Runs a verb that is not Lightning's: the parameters of its `run` are its options."""
    run = importlib.import_module(f"probe.verbs.{MODULES.get(verb, verb)}").run
    parser = OneSentence(prog=f"probe {verb}", description=run.__doc__.splitlines()[0], allow_abbrev=False)
    config = parser.add_argument("-c", "--config", action=_Sections, help="YAML; sections of `fit` are passed over")
    parser.add_function_arguments(run, as_group=False, skip=set(POSITIONAL))
    for name in POSITIONAL.keys() & run.__annotations__.keys():
        parser.add_argument(name, nargs="*", type=str, help=POSITIONAL[name])
    config.known = set(parser.get_defaults().keys()) - {"config"}  # no config brings in another
    settings = parser.parse_args(_whole_flags(argv, run))
    settings.pop("config", None)
    check_settings({name: value for name, value in vars(settings).items() if name not in POSITIONAL}, argv)
    return int(run(**parser.instantiate(settings)))


def _whole_flags(argv: Sequence[str], run: Callable[..., int]) -> list[str]:
    """`--tokens` as `--tokens=true`: where yes or no is asked for, to name it is to say yes."""
    flags = {
        f"--{name}" for name, parameter in inspect.signature(run).parameters.items() if parameter.annotation is bool
    }
    said = [*argv[1:], ""]
    return [
        f"{word}=true" if word in flags and after.lower() not in ("true", "false", "yes", "no") else word
        for word, after in zip(argv, said, strict=False)
    ]


class _Sections(ActionConfigFile):
    """Takes of a config file what this verb knows."""

    known: set[str]

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Applies those sections."""
        self.apply_config(parser, cfg, self.dest, _sections_for(values, self.known))


def _sections_for(file: str, known: set[str]) -> str:
    """Of a config file, what this verb knows, as inline YAML."""
    config = dict(read_config(file))
    unknown = sorted(set(config) - {name.split(".")[0] for name in known} - SHARED)
    if unknown:
        raise ProbeError(
            f"--config {file}: found the section `{unknown[0]}`, which this verb does not know; remove it."
        )
    for name in ("data", "steering"):
        section = config.get(name, {})
        if not isinstance(section, dict):
            raise ProbeError(
                f"--config {file}: expected `{name}` to be a section, found {section!r}; put its settings under it."
            )
        section = section.get("init_args", section)
        ours = {k: v for k, v in section.items() if f"{name}.{k}" in known}
        if len(ours) < len(section):
            _refuse_unknown(file, name, set(section) - set(ours))
        config[name] = ours
    kept = {k: v for k, v in config.items() if any(f"{name}.".startswith(f"{k}.") for name in known)}
    return yaml.safe_dump(kept, sort_keys=False)


def _refuse_unknown(file: str, section: str, keys: set[str]) -> None:
    """A setting that this verb lacks is passed over if it is one of `fit`, and refused if it is nobody's."""
    kinds = DATA if section == "data" else ("",)
    unknown = sorted(keys - {"class_path", *(name for kind in kinds for name in options(section, kind))})
    if unknown:
        raise ProbeError(f"--config {file}: found `{section}.{unknown[0]}`, which no verb knows; correct it.")
