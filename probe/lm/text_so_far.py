"""Tokens to text while they come: what was told once stays, so that its pieces make up the text that the library writes."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What the first bytes of a letter are decoded to, until its last one is there."""
BEFORE = 4
"""Tokens of the text before that are decoded with the new ones: some tokenizers drop a space at the beginning of a text."""


class TextSoFar:
    """The text of one answer.

    Args:
        tokenizer: Decodes.
        before: Token ids that a bare text goes on from, and keeps its spaces; None for a reply, which stands without the space
            around it.
        stops: Where one of these begins, the text ends.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, before: Sequence[int] | None = None, stops: Sequence[str] = ()
    ) -> None:
        self.tokenizer, self.is_reply = tokenizer, before is None
        self.before, self.stops = list(before or ())[-BEFORE:], [stop for stop in stops if stop]
        self.ids: list[int] = []
        self.told = ""
        self.stopped = False

    def add(self, token: int) -> str:
        """What a further token lets be told."""
        self.ids.append(token)
        return self._tell(self._told_for_good(self._decoded()))

    def rest(self) -> str:
        """What is left to tell once no token follows."""
        return "" if self.stopped else self._tell(self._decoded())

    def _decoded(self) -> str:
        text = self._decode([*self.before, *self.ids])[len(self._decode(self.before)) :]
        if self.is_reply:
            text = text.strip()
        found = [at for at in map(text.find, self.stops) if at >= 0]
        self.stopped = bool(found)
        return text[: min(found)] if found else text

    def _decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)) if ids else ""

    def _told_for_good(self, text: str) -> str:
        """Without what a later token may change, or show to begin a stop."""
        if self.stopped:
            return text
        text = text.rstrip(UNFINISHED)
        begun = [n for stop in self.stops for n in range(1, len(stop)) if text.endswith(stop[:n])]
        return text[: len(text) - max(begun, default=0)]

    def _tell(self, text: str) -> str:
        if not text.startswith(self.told):  # it is shorter for now
            return ""
        new = text[len(self.told) :]
        self.told = text
        return new
