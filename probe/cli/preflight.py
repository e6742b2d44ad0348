"""What can be checked in a moment is checked before the slow imports: config files, data files, where the model is."""

from collections.abc import Iterator, Mapping, Sequence
from os.path import expanduser
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from probe.data.contrast import read_contrast
from probe.data.rows import Preference, RatedText, read_crossed, read_rows
from probe.errors import ProbeError, did_you_mean
from probe.files import SHIPPED, shipped
from probe.lm.sources import locate
from probe.options.yaml_text import bounded

DATA_FILES = {
    "validation_stories": RatedText,
    "test_stories": RatedText,
    "test_preferences": Preference,
    "texts": RatedText,
}


class Setting(NamedTuple):
    """An option that somebody gave."""

    name: str
    """As it was written, without dashes: `model.init_args.span`."""
    value: Any
    """Text from the command line, any value from a config."""
    config: str = ""
    """The config that it stands in; none for the command line."""

    @property
    def key(self) -> str:
        """Its name in short, `model.span`: the same setting may be written in both ways."""
        return self.name.replace(".init_args", "").removesuffix("+")

    @property
    def shown(self) -> str:
        """How an error names it."""
        return f"--config {self.config}: {self.name}" if self.config else f"--{self.name}"


def check(argv: Sequence[str]) -> None:
    """Raises ProbeError for a config, data file or model folder that cannot work.

    It reads options the way the command line does, later ones winning, but judges only what it knows; a misspelt
    option is judged elsewhere.
    """
    settings = {setting.key: setting.value for setting in given(argv)}
    for field, kind in DATA_FILES.items():
        file = settings.get(f"data.{field}")
        if isinstance(file, str) and file != "null":
            read_rows(expanduser(file), kind)
    if isinstance(crossed := settings.get("data.test_crossed"), str) and crossed != "null":
        read_crossed(expanduser(crossed))
    if isinstance(pairs := settings.get("data.pairs"), str):
        read_contrast(expanduser(pairs))
    model = settings.get("lm.model")
    if isinstance(model, str):
        locate(model)


def given(argv: Sequence[str]) -> Iterator[Setting]:
    """The settings of a command line and of its configs, in their order."""
    for name, value in _options(argv):
        if name in ("--config", "-c"):
            yield from (Setting(inner, held, value) for inner, held in _flatten(read_config(value)))
        elif (section := _section(name, value)) is not None:
            yield from (Setting(inner, held) for inner, held in _flatten(section, name.lstrip("-")))
        else:
            yield Setting(name.lstrip("-"), value)


def _section(name: str, value: str) -> Mapping[str, Any] | None:
    """A whole section given as YAML in one word."""
    if "." in name or not value.lstrip().startswith("{"):
        return None
    try:
        section = yaml.safe_load(bounded(value))
    except yaml.YAMLError:
        return None  # the parser says what is wrong with it
    return section if isinstance(section, Mapping) else None


def _options(argv: Sequence[str]) -> list[tuple[str, str]]:
    """`--name value`, `--name=value` and `-c value` as (--name, value)."""
    given = []
    for i, word in enumerate(argv):
        name, equals, value = word.partition("=")
        if word.startswith("--") or name == "-c":
            after = argv[i + 1] if i + 1 < len(argv) else ""
            given.append((name, value if equals else "" if after.startswith("--") else after))
    return given


def find_configs(argv: Sequence[str]) -> list[str]:
    """The words of a command, `--config NAME` with the file that is meant: as named, or a config that comes with this project."""
    words = list(argv)
    for i, word in enumerate(words):
        name, equals, value = word.partition("=")
        if equals and name in ("--config", "-c"):
            words[i] = f"{name}={_config_file(value)}"
        elif i and words[i - 1] in ("--config", "-c"):
            words[i] = _config_file(word)
    return words


def _config_file(name: str) -> str:
    file = shipped(name) if shipped(name).is_file() else shipped(f"configs/{name}.yaml")
    return str(file) if file.is_file() else name


def read_config(path: str) -> Mapping[str, Any]:
    """Reads a YAML config.

    Raises:
        ProbeError: where it cannot be read or holds no sections.
    """
    try:
        config = yaml.safe_load(bounded(Path(path).read_text(encoding="utf-8")))
    except OSError as error:
        here = sorted(file.stem for file in (SHIPPED / "configs").glob("*.yaml"))
        raise ProbeError(
            f"--config {path}: cannot be read ({error.strerror}); expected a file, or one of {SHIPPED / 'configs'}: "
            f"{', '.join(here)}{did_you_mean(path, here) or '.'}"
        ) from error
    except (yaml.YAMLError, ValueError) as error:
        raise ProbeError(
            f"--config {path}: expected YAML, but {' '.join(str(error).split())}; correct that line."
        ) from error
    if not isinstance(config, Mapping):
        raise ProbeError(f"--config {path}: expected sections such as `lm`, `model` and `data`, found {config!r}.")
    return config


def _flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        name = f"{prefix}.{key}".lstrip(".")
        yield from _flatten(value, name) if isinstance(value, Mapping) and value else [(name, value)]
