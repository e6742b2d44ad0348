"""What can be checked in a moment is checked before the slow imports: config files, data files, the model's folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from probe.errors import ProbeError
from probe.rows import Preference, RatedText, TextPair, read_rows

DATA_FILES = {
    "pairs": TextPair,
    "validation_stories": RatedText,
    "test_stories": RatedText,
    "test_preferences": Preference,
}


def check(argv: Sequence[str]) -> None:
    """Raises ProbeError for a config, data file or model folder that cannot work.

    It reads options the way the command line does, later ones winning, but judges only what it knows; a misspelt
    option is left to the parser.
    """
    settings: dict[str, Any] = {}
    for name, value in _options(argv):
        if name in ("config", "c"):
            settings |= _flatten(read_config(value))
        else:
            settings[name.replace(".init_args.", ".")] = value
    for field, kind in DATA_FILES.items():
        file = settings.get(f"data.{field}")
        if isinstance(file, str) and file != "null":
            read_rows(file, kind)
    model = settings.get("lm.model")
    if isinstance(model, str) and _looks_local(model) and not (Path(model).expanduser() / "config.json").is_file():
        raise ProbeError(f"--lm.model {model}: expected a folder with config.json, found none; check the path.")


def _options(argv: Sequence[str]) -> list[tuple[str, str]]:
    """`--name value`, `--name=value` and `-c value` as (name, value)."""
    found = []
    for i, word in enumerate(argv):
        if word.startswith("-"):
            name, equals, value = word.lstrip("-").partition("=")
            found.append((name, value if equals else argv[i + 1] if i + 1 < len(argv) else ""))
    return found


def read_config(path: str) -> Mapping[str, Any]:
    """Reads a YAML config.

    Raises:
        ProbeError: where it cannot be read or holds no sections.
    """
    try:
        config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ProbeError(
            f"--config {path}: cannot be read ({error.strerror}); `ls configs` shows what there is."
        ) from error
    except (yaml.YAMLError, ValueError) as error:
        raise ProbeError(
            f"--config {path}: expected YAML, but {' '.join(str(error).split())}; correct that line."
        ) from error
    if not isinstance(config, Mapping):
        raise ProbeError(f"--config {path}: expected sections such as `lm`, `model` and `data`, found {config!r}.")
    return config


def _flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = prefix if key == "init_args" else f"{prefix}.{key}".lstrip(".")
        flat |= _flatten(value, name) if isinstance(value, Mapping) else {name: value}
    return flat


def _looks_local(model: str) -> bool:
    # A hub id is `name` or `owner/name`; this project's own models lie under data/.
    return model.startswith((".", "/", "~", "data/")) or model.count("/") > 1
