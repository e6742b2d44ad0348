"""What the config.yaml of a run says, as data: no class is imported for it, and the types of each class are held to."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from probe.data.rated import RatedData
from probe.data.splits import ContrastData, SplitRows
from probe.errors import ProbeError
from probe.lm.spec import LMSpec
from probe.options.parsing import OneSentence, check_settings
from probe.options.yaml_text import bounded
from probe.scorers.base import Scorer

SECTIONS = ("lm", "model", "data")
DATA: dict[str, type[SplitRows]] = {kind.__name__: kind for kind in (ContrastData, RatedData)}


def read_settings(file: Path) -> tuple[type[Scorer], type[SplitRows], dict[str, dict[str, Any]]]:
    """The classes of a run's scorer and data, and what its sections `lm`, `model` and `data` say.

    Raises:
        ProbeError: where the file cannot be read, or names a class that is not there, or something that only the person who
            types a command may say.
    """
    try:
        config = yaml.safe_load(bounded(file.read_text(encoding="utf-8")))
        sections = {name: _arguments(config[name]) for name in SECTIONS}
        kind = _scorer_called(str(config["model"]["class_path"]))
        data = DATA.get((named := str(config["data"]["class_path"])).rpartition(".")[2])
        if data is None:
            raise ValueError(f"its data are {named}")
    except (OSError, yaml.YAMLError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, ProbeError):
            raise
        raise ProbeError(
            f"{file}: expected the config of a run as `fit` writes it, found none ({' '.join(str(error).split())}); name "
            "another run."
        ) from error
    parser = OneSentence(prog=str(file))
    parser.add_class_arguments(LMSpec, "lm")
    parser.add_class_arguments(kind, "model", skip={"lm"})
    parser.add_class_arguments(data, "data")
    settings = parser.parse_object(sections)
    check_settings(settings, [])
    as_data = settings.as_dict()
    return kind, data, {name: as_data[name] for name in SECTIONS}


def _arguments(section: Mapping[str, Any]) -> dict[str, Any]:
    return dict(section.get("init_args") or {}) if "class_path" in section else dict(section)


def _scorer_called(path: str) -> type[Scorer]:
    """The class of a path, among those that were imported already: a config imports nothing."""
    module, _, name = path.rpartition(".")
    for kind in _below(Scorer):
        if kind.__name__ == name and f"{kind.__module__}.".startswith(f"{module}."):
            return kind
    raise ProbeError(
        f"expected a scorer that is there, found {path}; give --plugin {module or 'PACKAGE'}, or import it first."
    )


def _below(kind: Any) -> Iterator[type[Scorer]]:
    for inner in kind.__subclasses__():
        yield inner
        yield from _below(inner)
