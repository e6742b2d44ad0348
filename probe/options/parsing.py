"""How every command line is parsed: YAML within bounds, errors in one sentence, and nothing risky that nobody typed."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn
from urllib.parse import urlsplit

import jsonargparse
import yaml

from probe.errors import ProbeError, did_you_mean
from probe.options.types import choices_of, in_words
from probe.options.yaml_text import bounded
from probe.shown.escapes import plain

TYPED_ALONE = {
    "trust_remote_code": False,
    "key_variable": "OPENAI_API_KEY",
    "model_registry": None,
    "host": "127.0.0.1",
    "token_file": None,
}
"""Setting -> its default; any other value runs code of others, sends something away or opens this machine to others, so only the
command line may give it."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")
NULLS = ("", "~", "null", "Null", "NULL")

_load_unbounded = jsonargparse.get_loader("yaml")


def _load(text: str) -> Any:
    """YAML as jsonargparse reads it, within bounds; a text that YAML would take for a comment or an anchor is a text."""
    value = _load_unbounded(bounded(text))
    return text if value is None and text.strip() not in NULLS else value


jsonargparse.set_loader("yaml", _load, (yaml.YAMLError,))


class OneSentence(jsonargparse.ArgumentParser):
    """A parser whose errors are ours; the parsers that it makes for nested classes keep their own."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises the ProbeError that stands for the parser's own words."""
        if not self.exit_on_error:
            super().error(message, ex)
        known: BaseException | None = ex
        while known is not None and not isinstance(known, ProbeError):  # a parser of a part has said it already
            known = known.__cause__ or known.__context__
        raise known or ProbeError(plain(self._in_one_sentence(message)))

    def _in_one_sentence(self, message: str) -> str:
        if stray := re.search(r"[Uu]nrecognized arguments: (\S+)", message):
            option = stray[1].partition("=")[0]
            hint = did_you_mean(option, self._option_string_actions)
            return f"expected an option of `{self.prog}`, found {option}{hint or '; --help shows every option.'}"
        for action in () if re.search("Not of type|not allowed|class_path", message) else self._actions:
            kind, found = getattr(action, "_typehint", None), re.search(r"(?:Got|Given) value: (.*)", message)
            if kind and found and f'key "{action.dest}"' in message:
                hint = did_you_mean(found[1], choices_of(kind)) or "; correct it."
                return f"--{action.dest}: expected {in_words(kind)}, found {found[1]!r}{hint}"
        return _in_one_sentence(message)

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """Parses as jsonargparse does, whose check of an import path may leave it as an ImportError."""
        try:
            return super().parse_args(*args, **kwargs)
        except ImportError as denied:
            self.error(str(denied), denied)


def _in_one_sentence(message: str) -> str:
    if denied := re.search(r"Importing '([^']+)' is not allowed", message):
        return (
            f"expected a class that a config may name (a scorer, ContrastData, a few of Lightning's), found {denied[1]}; only "
            "--plugin PACKAGE on the command line admits others."
        )
    if kind := re.search(r"Not of type (\w+): ([^\n]*)", message):
        option = ".".join(dict.fromkeys(re.findall(r'key "([\w.]+)"', message)))
        found = message.rpartition("Given value: ")[2] + " " if kind[2].startswith("does not") else ""
        return f"--{option}: expected {kind[1]}, but {found}{kind[2]}; correct it."
    return f"{' '.join(message.split())}; --help shows every option."


def check_settings(settings: Any, argv: Sequence[str]) -> None:
    """Refuses what only the command line may say, wherever in the parsed settings it stands and however it came there.

    Raises:
        ProbeError: for code of others, the variable of a key, or the address of another machine that nobody typed; and for a
            list of nothing, but Lightning's own.
    """
    words = [word for before, word in zip(("", *argv), argv, strict=False) if not {before, word} & {"--config", "-c"}]
    words = [word for word in words if not word.startswith(("--config=", "-c"))]
    for path, value in sorted(_leaves(settings), key=lambda leaf: len(leaf[0])):
        name = path.rpartition(".")[2]
        if value == [] and not path.startswith("trainer."):
            raise ProbeError(f"{path}: expected one value or more, found an empty list; say which, or leave it out.")
        if _needs_typing(name, value) and not _is_typed(name, value, words):
            raise ProbeError(
                f"{path}: found {value!r} in a config, which may not run code of others, choose a key, or name or admit another "
                f"machine; if you trust it, give {name} on the command line."
            )


def _needs_typing(name: str, value: Any) -> bool:
    if name in TYPED_ALONE:
        return bool(value != TYPED_ALONE[name])
    if not isinstance(value, str) or not re.match(r"\s*[\w+.:-]+://", value):
        return False
    try:
        return urlsplit(value).hostname not in LOOPBACK
    except ValueError:  # half an IPv6 address, say: nobody knows where that leads
        return True


def _is_typed(name: str, value: Any, words: Sequence[str]) -> bool:
    """Whether a word of the command line gives this value to a setting of this name: `--x.NAME value`, or inside of YAML."""
    for word, after in zip(words, (*words[1:], ""), strict=False):
        option, equals, given = word.partition("=")
        if option.startswith("--") and option.rpartition(".")[2].lstrip("-") == name:
            if _load(given if equals else after) == value or (given if equals else after) == value:
                return True
        elif re.search(rf"\b{name}['\"]?\s*:", word) and str(value).lower() in word.lower():
            return True
    return False


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of nested settings; the elements of a list have its name."""
    if isinstance(value, jsonargparse.Namespace | Mapping) or hasattr(value, "__dataclass_fields__"):
        for name, inner in (value if isinstance(value, Mapping) else vars(value)).items():
            yield from _leaves(inner, f"{path}.{name}".lstrip("."))
    elif isinstance(value, list | tuple | set | frozenset) and value:
        for inner in value:
            yield from _leaves(inner, path)
    else:
        yield path, [] if value == () else value
