"""Passages to token ids: the chat template is rendered, the pooled span is marked, similar lengths share a padded batch."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from probe.data.reading import Passage
from probe.errors import ProbeError
from probe.lm.spec import LMSpec
from probe.lm.templates import INSTRUCTION, ChatTemplate

BATCH_TOKENS = 2048
"""Padded tokens in one forward pass: beyond this a CPU gains nothing and memory grows."""
PASS_COST = 128
"""What starting one more forward pass costs, in tokens."""
TOKENISED_AT_ONCE = 1024
"""Texts that the tokenizer is given together: it works on as many as there are cores."""
BUSY_TOKENS = 32_768
"""Padded tokens beyond which a GPU gains nothing."""


@dataclass(frozen=True)
class TokenBatch:
    """Right-padded token ids and the span that is pooled."""

    input_ids: Tensor
    """`[B, T]`"""
    attention_mask: Tensor
    """`[B, T]` 1 on real tokens."""
    pool_mask: Tensor
    """`[B, T]` 1 on tokens of the selected span; the template and BOS are never in it."""
    example: Tensor
    """`[B]` row numbers of the caller."""


@dataclass(frozen=True)
class Encoded:
    """One passage as token ids, with the tokens of its pooled span marked."""

    ids: tuple[int, ...]
    pooled: tuple[bool, ...]
    truncated: bool = False


@dataclass
class PassageEncoder:
    """Renders and tokenises passages for one model, and marks what is pooled.

    Args:
        tokenizer: The model's own.
        spec: How it is used.
        max_tokens: The longest sequence that is read.
    """

    tokenizer: PreTrainedTokenizerBase
    spec: LMSpec
    max_tokens: int

    def render(self, prompt: str) -> str:
        """The text before the response: the chat template up to the reply, or the bare prompt of a base model."""
        return self.template.render(prompt)

    @cached_property
    def template(self) -> ChatTemplate:
        """How an instruction is put to this model."""
        return ChatTemplate(self.tokenizer, self.spec).fitted()

    @property
    def template_hash(self) -> str:
        """sha256 of the chat template and what it is told; of the empty text where there is none."""
        told = self.spec.chat_template_kwargs
        return hashlib.sha256(f"{self.template.source or ''}{json.dumps(told) if told else ''}".encode()).hexdigest()

    @cached_property
    def tokenizer_hash(self) -> str:
        """sha256 of vocabulary and rules: the same weights read other tokens with another tokenizer."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        rules = json.loads(backend.to_str()) if backend else self.tokenizer.get_vocab()
        for of_a_call in ("padding", "truncation"):
            rules.pop(of_a_call, None)
        return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()

    @property
    def reading(self) -> dict[str, Any]:
        """How texts become tokens, by name: what a number depends on beside the texts and the weights."""
        passing = ("model", "dtype", "device", "strict", "trust_remote_code")  # the weights, and whether it runs at all
        asked = {f"lm_{name}": value for name, value in asdict(self.spec).items() if name not in passing}
        hashes = {"template_hash": self.template_hash, "tokenizer_hash": self.tokenizer_hash}
        return asked | {"lm_max_tokens": self.max_tokens} | hashes

    @cached_property
    def _around_prompt(self) -> tuple[str, str]:
        before, _, after = self.render(INSTRUCTION).partition(INSTRUCTION)
        return before, after

    def ids(self, texts: list[str]) -> list[list[int]]:
        """Token ids of texts that are to be continued: without the EOS that some tokenizers put behind every text."""
        return [row[: len(row) - self._appended] for row in self._tokenise(texts)["input_ids"]]

    @cached_property
    def _appended(self) -> int:
        added = self._tokenise("x", return_special_tokens_mask=True)["special_tokens_mask"]
        return len(added) - max((i + 1 for i, special in enumerate(added) if not special), default=len(added))

    def bare_ids(self, text: str) -> list[int]:
        """Token ids of a text that is continued as it stands, without the chat template: behind a BOS where there is one."""
        one = self.tokenizer("x", return_special_tokens_mask=True)
        bos = one["input_ids"][: one["special_tokens_mask"].index(0)]
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids if ids[: len(bos)] == bos else [*bos, *ids]

    def _tokenise(self, text: str | list[str], **kwargs: Any) -> Any:
        # A chat template writes its own BOS; adding special tokens again would double it.
        return self.tokenizer(text, add_special_tokens=not self.template.source, **kwargs)

    def encode(self, passages: Sequence[Passage]) -> list[Encoded]:
        """Tokenises passages and marks the pooled span; nothing after the span is kept, a causal LM never needs it.

        Raises:
            ProbeError: where a span holds no token, or with `strict` where one is too long.
        """
        prefix_of = {prompt: self.render(prompt) for prompt in dict.fromkeys(passage.prompt for passage in passages)}
        encoded = []
        for start in range(0, len(passages), TOKENISED_AT_ONCE):
            part = passages[start : start + TOKENISED_AT_ONCE]
            texts = [prefix_of[passage.prompt] + (passage.response or "") for passage in part]
            read = self._tokenise(texts, return_offsets_mapping=True)
            of_part = zip(part, texts, read["input_ids"], read["offset_mapping"], strict=True)
            encoded += [self._marked(*of_passage, prefix_of[of_passage[0].prompt]) for of_passage in of_part]
        return encoded

    def _marked(
        self, passage: Passage, text: str, ids: list[int], offsets: list[tuple[int, int]], prefix: str
    ) -> Encoded:
        if passage.response is not None:
            start, end = len(prefix), len(text)
        else:
            # Not by searching for the prompt: "end" or "assistant" may occur in the template as well.
            before, after = self._around_prompt
            content = prefix[len(before) : len(prefix) - len(after)]
            if content.strip() != passage.prompt.strip():
                raise ProbeError(
                    f"{self.spec.model}: expected a chat template that leaves an instruction as it is, found that it changes "
                    f"{passage.prompt[:60]!r}; reword that, or mend the template."
                )
            start = len(before) + len(content) - len(content.lstrip())
            end = start + len(content.strip())
        # Tokenizers put a leading space into the token, so a span may begin inside its first one.
        pooled = [
            first < last <= end
            and (first >= start or (start < last and not text[first:start].strip() and bool(text[start:last].strip())))
            for first, last in offsets
        ]
        if passage.at_reply:
            pooled = [i == len(offsets) - 1 - self._appended for i in range(len(offsets))]
        length = max((i + 1 for i, inside in enumerate(pooled) if inside), default=0)
        cut = min(length, self.max_tokens)
        if not any(pooled[:cut]):
            raise ProbeError(
                f"no token of the text {passage.pooled[:60]!r} is left to read within {self.max_tokens} tokens; "
                "shorten its prompt, raise --lm.max_tokens or drop the row."
            )
        if cut < length and self.spec.strict:
            raise ProbeError(
                f"the text {passage.pooled[:60]!r} has {length} tokens, more than the {self.max_tokens} allowed, and "
                "--strict refuses to cut it; shorten it or raise --lm.max_tokens."
            )
        return Encoded(tuple(ids[:cut]), tuple(pooled[:cut]), cut < length)

    def encode_question(self, question: Callable[..., str], texts: Sequence[str]) -> Encoded:
        """Tokenises `question(*texts)` up to where the reply begins; the last token, which foretells the reply, is marked.

        Where that is too long the texts are cut, all at the same number of tokens, and the question stays whole.

        Raises:
            ProbeError: where the question alone is too long, or with `strict` where a text would be cut.
        """

        def tokenise(*texts: str) -> list[int]:
            return self.ids([self.render(question(*texts))])[0]

        ids = tokenise(*texts)
        truncated = len(ids) > self.max_tokens
        if truncated and self.spec.strict:
            raise ProbeError(
                f"the question about {texts[0][:60]!r} has {len(ids)} tokens, more than the {self.max_tokens} allowed, "
                "and --strict refuses to cut its text; shorten it or raise --lm.max_tokens."
            )
        ends = [[end for _, end in self._offsets(text)] for text in texts] if truncated else []
        kept = max(map(len, ends), default=0)
        while (excess := len(ids) - self.max_tokens) > 0:
            kept -= -(-excess // len(texts))
            if kept < 1:
                raise ProbeError(
                    f"the question {question(*['...'] * len(texts))[:60]!r} leaves no room for a text within "
                    f"{self.max_tokens} tokens; raise --lm.max_tokens."
                )
            ids = tokenise(*(text[: max(at[:kept], default=0)] for text, at in zip(texts, ends, strict=True)))
        return Encoded(tuple(ids), (False,) * (len(ids) - 1) + (True,), truncated)

    def _offsets(self, text: str) -> list[tuple[int, int]]:
        return list(self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"])

    def reply_starts(self, *answers: str) -> list[list[int]]:
        """For each answer the tokens with which a reply that gives it may begin, in any spelling.

        A token with which another answer may begin too, a lone space say, tells nothing and is left out.
        """
        before = self.render("?")
        (asked,) = self.ids([before])
        of_answer = []
        for answer in answers:
            starts: set[int] = set()
            for text in (space + word for word in (answer, answer.lower(), answer.upper()) for space in ("", " ")):
                starts.update(self.tokenizer(text, add_special_tokens=False)["input_ids"][:1])
                # Some tokenizers begin every text as if after a space, so that a word in a reply is another token.
                (reply,) = self.ids([before + text])
                if reply[: len(asked)] == asked:
                    starts.update(reply[len(asked) : len(asked) + 1])
            of_answer.append(starts)
        return [
            sorted(starts.difference(*(other for other in of_answer if other is not starts))) for starts in of_answer
        ]

    @property
    def pad_id(self) -> int:
        """The token that pads."""
        return int(self.tokenizer.pad_token_id or 0)


def plan_batches(lengths: Sequence[int], budget: int = BATCH_TOKENS, pass_cost: int = PASS_COST) -> list[list[int]]:
    """Splits texts into batches of similar length at the least cost, exactly: dynamic programming on sorted lengths.

    A batch costs rows x longest + `pass_cost` tokens and holds at most `budget` padded tokens (or one text).
    """
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    starts, best, cut = np.arange(len(order) + 1), np.zeros(len(order) + 1, dtype=np.int64), [0]
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        first = max(0, end - max(1, budget // longest))
        costs = best[first:end] + (end - starts[first:end]) * longest
        at = int(costs.argmin())
        best[end] = costs[at] + pass_cost
        cut.append(first + at)
    batches, end = [], len(order)
    while end:
        batches.append(order[cut[end] : end])
        end = cut[end]
    return batches[::-1]
