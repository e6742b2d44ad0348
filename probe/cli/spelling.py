"""Misspelt options and values of Lightning's verbs are refused in a moment, with what was meant, before Lightning is imported."""

import json
from collections.abc import Sequence

import yaml

from probe.cli.outline import SECTIONS, Option, options
from probe.cli.plugins import DATA, SCORERS
from probe.cli.preflight import Setting, given
from probe.errors import ProbeError, did_you_mean
from probe.files import from_json
from probe.lm.sources import locate
from probe.lm.spec import LMSpec
from probe.options.parsing import OneSentence
from probe.options.types import Seed

OF_A_RUN = {
    "$schema", "__default_config__", "c", "ckpt_path", "concept", "config", "help", "print_config", "resume",
    "return_predictions", "seed_everything", "strict", "verbose", "weights_only",
}  # fmt: skip
"""What is no section; whether a verb takes it is left to the parser."""
SEED = Option(bool | Seed, 0, "")
CLASSES = {"model": SCORERS, "data": tuple(DATA)}
OF_A_CLASS = {"class_path", "dict_kwargs", "help", "init_args"}
N_BLOCKS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
"""How architectures name it in config.json."""


def check_spelling(argv: Sequence[str], plugins: bool = False) -> None:
    """Raises ProbeError for an option that does not exist, a value of another type, or a block that the model lacks.

    What Lightning's own options may hold is left to the parser, and so is all of a class that is not ours; with plugins there
    may be such.
    """
    settings = list(given(argv))
    for i, setting in enumerate(settings):
        section, _, rest = setting.key.partition(".")
        name = rest.partition(".")[0]
        if section not in SECTIONS.keys() | OF_A_RUN:
            hint = did_you_mean(section, [*SECTIONS, *OF_A_RUN]) or "; `probe fit --help` shows them."
            raise ProbeError(f"{setting.shown}: expected a section or an option of a run, found {section}{hint}")
        if section == "seed_everything":
            _check_value(setting, SEED)
        made = _class_of(section, settings, i, plugins) if section in CLASSES else section
        if made and name not in OF_A_CLASS | {""} and section in SECTIONS:
            known = options(section, made)
            if name not in known:
                which = f"an option of {made}" if section == "trainer" else f"{', '.join(known)} ({made})"
                hint = did_you_mean(name, known) or "; `--help all` shows every option."
                raise ProbeError(f"{setting.shown}: expected {which}, found {name}{hint}")
            if name == rest and not setting.name.endswith("+"):
                _check_value(setting, known[name])
    _check_blocks(settings)


def _class_of(section: str, settings: Sequence[Setting], i: int, plugins: bool) -> str:
    """Which of our classes the section means at this setting, after those before it and all of its own config; else ''."""
    named = [
        s
        for j, s in enumerate(settings)
        if s.key in (section, f"{section}.class_path") and (j <= i or s.config == settings[i].config != "")
    ]
    path = str(named[-1].value) if named else ""
    name = path.rpartition(".")[2]
    if name in CLASSES[section] and path in (name, path if path.startswith("probe.") else ""):
        return name
    if path and name == path and not plugins:
        hint = did_you_mean(path, CLASSES[section]) or "; correct it, or admit others with --plugin PACKAGE."
        raise ProbeError(f"{named[-1].shown}: expected {', '.join(CLASSES[section])}, found {path}{hint}")
    return ""


def _check_value(setting: Setting, option: Option) -> None:
    if option.type is None or setting.value == "":
        return
    parser = OneSentence(prog="probe")
    parser.add_argument(f"--{setting.name}", type=option.type)
    text = setting.value if isinstance(setting.value, str) else json.dumps(setting.value, default=str)
    try:
        parser.parse_args([f"--{setting.name}={text}"])
    except ProbeError as error:
        raise ProbeError(str(error).replace(f"--{setting.name}", setting.shown, 1)) from error


def _check_blocks(settings: Sequence[Setting]) -> None:
    values = {setting.key: setting for setting in settings}
    model = str(values["lm.model"].value if "lm.model" in values else LMSpec().model)
    for asked in (values[key] for key in ("model.layers", "model.layer") if key in values):
        blocks = yaml.safe_load(asked.value) if isinstance(asked.value, str) else asked.value
        beyond = [k for k in (blocks if isinstance(blocks, list) else [blocks]) if isinstance(k, int)]
        n = _n_blocks(model)
        if n and beyond and max(beyond) >= n:
            raise ProbeError(
                f"{asked.shown}: {model} has blocks 0 to {n - 1}, found {max(beyond)}; choose among those."
            )


def _n_blocks(model: str) -> int | None:
    """From config.json, where the model has one on this machine; a GGUF file or an adapter tells it later."""
    folder = locate(model)
    config = folder / "config.json" if folder else None
    if config is None or not config.is_file():
        return None
    try:
        card = from_json(config.read_bytes())
    except ValueError:
        return None  # it is said when it is loaded
    card = card.get("text_config", card) if isinstance(card, dict) else {}
    return next((card[name] for name in N_BLOCKS if isinstance(card.get(name), int)), None)
