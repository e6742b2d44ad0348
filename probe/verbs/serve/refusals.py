"""What is not answered, and why: in OpenAI's shape, in one sentence."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from probe.errors import ProbeError, did_you_mean

KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
"""Status -> what OpenAI calls it; others are the request's fault below 500, and the server's from there on."""


class Refusal(Exception):  # noqa: N818  (it is an answer)
    """A request that is not answered.

    Args:
        status: Of HTTP.
        message: What was expected, what was found, what to do.
        code: What a program may look for.
        param: Which field.
    """

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param

    @classmethod
    def of(cls, error: Exception) -> "Refusal":
        """What to say of an exception; one that nobody foresaw is the server's fault, and says nothing of what was asked."""
        if isinstance(error, Refusal):
            return error
        if isinstance(error, ProbeError):
            return cls(400, str(error))
        return cls(500, f"{type(error).__name__} is a fault of probe, not yours; the server's terminal says more.")

    @property
    def body(self) -> dict[str, Any]:
        """As JSON."""
        kind = KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """What HTTP wants beside it."""
        if self.status == 401:
            return {"WWW-Authenticate": "Bearer"}
        return {"Retry-After": "1"} if self.status == 429 else {}


WANTED = {
    "extra_forbidden": "a field, or a value of it, that this server heeds",
    "finite_number": "a finite number",
    "float_type": "a number",
    "float_parsing": "a number",
    "greater_than_equal": "{ge:g} or more",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "less_than": "less than {lt}",
    "list_type": "a list",
    "literal_error": "{expected}",
    "model_attributes_type": "a JSON object, sent as application/json",
    "string_too_short": "a text",
    "string_type": "a text",
    "string_unicode": "a text without half of a surrogate pair",
    "too_long": "at most {max_length}",
    "too_short": "{min_length} or more",
}
"""What pydantic calls a fault -> what was expected."""


def misfit(errors: Sequence[Mapping[str, Any]], known: Iterable[str]) -> Refusal:
    """What to say of a body that pydantic refuses: the first fault that it found.

    Args:
        errors: Its faults.
        known: All fields that there are.
    """
    # Where a field may be of several kinds, each that it is not is a fault, too.
    first = next((error for error in errors if not error["type"].endswith("_type")), errors[0])
    kind, context = first["type"], first.get("ctx", {})
    # Of several kinds of value pydantic names each in the place, as `str` or `list[...]`.
    field = ".".join(str(part) for part in first["loc"] if part != "body" and not _is_a_type(part))
    if kind == "json_invalid":
        return Refusal(400, f"expected a JSON object, but {context['error']}; correct the body.")
    if kind == "missing":
        return Refusal(400, f"expected {f'`{field}`' if field else 'a JSON object'}, found none; give it.", param=field)
    found = repr(first["input"])
    found = found if len(found) <= 60 else f"{found[:60]}..."
    wanted = WANTED.get(kind, str(first["msg"]).removeprefix("Value error, ")).format(**context)
    hint = did_you_mean(field, known) if kind == "extra_forbidden" and field not in known else ""
    hint = hint or ("; leave it out." if kind == "extra_forbidden" else "; correct it.")
    return Refusal(400, f"{field or 'body'}: expected {wanted}, found {found}{hint}", param=field or None)


def _is_a_type(part: Any) -> bool:
    return isinstance(part, str) and (part in ("str", "int", "constrained-int") or "[" in part)
