"""What is served: a run's model, its directions and its scorer; all of it is asked by the thread that owns the model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probe.data.reading import Passage
from probe.data.rows import DEFAULT_PROMPT
from probe.data.texts import readable
from probe.lm.open_batch import Line
from probe.lm.sampling import KeyedNoise
from probe.lm.text_so_far import TextSoFar
from probe.logs import DIRECTION
from probe.runs.cosines import token_cosines
from probe.runs.run import Run
from probe.steering.settings import Steering
from probe.verbs.serve.asked import ChatRequest, CompletionRequest, ScoreRequest, Writing
from probe.verbs.serve.refusals import Refusal
from probe.verbs.serve.steering import Directions


@dataclass(frozen=True)
class Limits:
    """What one request may ask for."""

    prompt_tokens: int
    answer_tokens: int


@dataclass(frozen=True)
class Prepared:
    """A text that can be begun."""

    line: Line
    text: TextSoFar
    told: dict[str, Any]
    """How it is steered, and its seed, for the reply and the log."""


class Service:
    """Requests to lines and figures.

    Args:
        run: What is served.
        said: How texts are written and steered where a request does not say.
        strength: How strongly; by default as a direction recommends, else one dose.
        limits: What a request may ask for.
    """

    def __init__(self, run: Run, said: Steering, strength: float | None, limits: Limits) -> None:
        self.run, self.lm, self.said, self.limits = run, run.lm, said, limits
        self.directions = Directions(run, said, strength)
        self.name = Path(self.lm.spec.model).name.removesuffix(".gguf")
        self.usual = self.directions.asked(Writing(model=self.name)).told
        """How is steered where a request does not say; what has to be measured for that is measured now."""
        if run.has_scorer:
            _ = run.scorer  # restored now, so that nobody waits for it, and no fault of it comes later

    def chat(self, body: ChatRequest) -> Prepared:
        """A reply to a conversation."""
        turns = [message.turn for message in body.messages]
        for _, text in turns:
            readable(text, "a message")
        rendered = self.lm.template.conversation(turns)
        # A lone instruction draws as everywhere in this project, so that its text is the same here.
        key = turns[0][1] if len(turns) == 1 else rendered
        return self._prepared(body, self.lm.ids([rendered])[0], key, bare=False)

    def completion(self, body: CompletionRequest) -> Prepared:
        """What goes on from a bare text."""
        return self._prepared(body, self.lm.bare_ids(readable(body.prompt, "the prompt")), body.prompt, bare=True)

    def _prepared(self, body: Writing, ids: Sequence[int], key: str, bare: bool) -> Prepared:
        self._check_model(body.model)
        limit = self._length(body, len(ids))
        how = self.directions.asked(body)
        temperature = self.said.temperature if body.temperature is None else body.temperature
        seed = self.said.seed if body.seed is None else body.seed
        noise = KeyedNoise([key], [seed], temperature, self.lm.device) if temperature else None
        text = TextSoFar(self.lm.tokenizer, ids if bare else None, body.stops)
        return Prepared(Line(ids, limit, noise, how), text, how.told | {"temperature": temperature, "seed": seed})

    def _check_model(self, model: str) -> None:
        if model not in (self.name, self.lm.spec.model):
            raise Refusal(
                404, f"model: expected {self.name!r}, found {model!r}; correct it.", "model_not_found", "model"
            )

    def _length(self, body: Writing, n_prompt: int) -> int:
        """How many tokens may be written."""
        longest, most = self.limits.prompt_tokens, self.limits.answer_tokens
        if n_prompt > longest:
            raise Refusal(
                400,
                f"expected a prompt of at most {longest} tokens, found {n_prompt}; shorten it.",
                "context_length_exceeded",
            )
        if body.max_tokens and body.max_tokens > most:
            raise Refusal(
                400, f"max_tokens: expected at most {most}, found {body.max_tokens}; ask for fewer.", param="max_tokens"
            )
        room = self.lm.max_tokens - n_prompt
        if room < (body.max_tokens or 1):
            raise Refusal(
                400,
                f"expected prompt and answer within the model's {self.lm.max_tokens} tokens, found {n_prompt} and "
                f"{body.max_tokens or 1}; shorten one of them.",
                "context_length_exceeded",
            )
        return body.max_tokens or min(self.said.max_new_tokens, most, room)

    def score(self, body: ScoreRequest) -> dict[str, Any]:
        """How much of the concept is in texts, by the served run's scorer."""
        prompt = readable(body.prompt or DEFAULT_PROMPT, "the prompt")
        passages = [self.run.passage(readable(text, "a text"), prompt) for text in body.texts]
        scores = self.run.score(passages)
        found: dict[str, Any] = {"object": "list", "run": self.directions.served}
        if body.tokens:
            found["midpoint"] = self._midpoint()
        found["data"] = [self._scored(i, *one, body.tokens) for i, one in enumerate(zip(passages, scores, strict=True))]
        if why := self.run.no_percentile():
            found["no_percentile"] = why
        return found

    def _scored(self, i: int, passage: Passage, score: float, tokens: bool) -> dict[str, Any]:
        percentile = self.run.percentile(score, passage)
        scored: dict[str, Any] = {
            "index": i,
            "score": None if math.isnan(score) else score,
            "percentile": None if math.isnan(percentile) else percentile,
            "truncated": self.lm.encode([passage])[0].truncated,
        }
        if tokens:
            cosines = token_cosines(self.lm, passage, self.run.direction)
            scored["tokens"] = [{"text": text, "cosine": cosine} for text, cosine in cosines]
        return scored

    def _midpoint(self) -> float:
        direction = self.run.direction
        if direction.chosen is None:
            raise Refusal(
                400, f"tokens: expected a chosen layer in {DIRECTION}, found none; leave it out.", param="tokens"
            )
        return float(direction.score_midpoint[direction.layers.index(direction.chosen)])

    def models(self) -> dict[str, Any]:
        """What may be asked: the model, and the directions that were found in it."""
        directions = [{"name": name, "layers": layers} for name, layers in self.directions.layers().items()]
        model = {"id": self.name, "object": "model", "created": 0, "owned_by": "probe"}
        limits = {"max_model_len": self.lm.max_tokens, "max_tokens": self.limits.answer_tokens}
        concept = {"concept": self.run.direction.provenance.get("concept")}
        return {
            "object": "list",
            "data": [model | limits | concept | {"steering": self.usual, "directions": directions}],
        }
