"""What a request may say: OpenAI's fields that mean something here, and how the answer is steered."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from probe.lm.spec import Unit

WITHOUT_EFFECT: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "top_p": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False, 0),
    "top_logprobs": (0,),
    "echo": (False,),
    "suffix": ("",),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "store": (False,),
}
"""Fields of OpenAI's that this server lacks -> the values at which they change nothing; whatever else would is refused."""
ABOUT_THE_CALLER = ("user", "metadata", "safety_identifier", "prompt_cache_key")
MOST_TEXTS = 64

Layer = Annotated[int, Field(ge=0)]


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _without_what_changes_nothing(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        return {
            name: value
            for name, value in body.items()
            if name in cls.model_fields
            or not (value is None or name in ABOUT_THE_CALLER or value in WITHOUT_EFFECT.get(name, ()))
        }


class StreamOptions(BaseModel):
    """What is streamed beside the text."""

    include_usage: bool = False
    include_obfuscation: bool = False
    """Is of no use over loopback, and not done."""


class Writing(_Asked):
    """What every request for a text may say; a field that is left out is as the server was started."""

    model: str
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    """The same request gives the same text; another seed gives another."""
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    direction: str | None = None
    """A run's name, as /v1/models lists them."""
    strength: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """How much of the direction; 0 is the plain model, below 0 steers away."""
    strength_unit: Unit | None = None
    layer: Layer | Annotated[list[Layer], Field(min_length=1)] | None = None
    operator: str | None = None

    @property
    def stops(self) -> list[str]:
        """The texts that end it."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the number of tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)


class Part(BaseModel):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """A turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]

    @property
    def turn(self) -> tuple[str, str]:
        """Who speaks, and what."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return "system" if self.role == "developer" else self.role, text


class ChatRequest(Writing):
    """The body of /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _ends_with_a_question(self) -> "ChatRequest":
        if self.messages[-1].role != "user":
            raise ValueError("the last message to be the user's")
        self.max_tokens = self.max_completion_tokens or self.max_tokens
        return self


class CompletionRequest(Writing):
    """The body of /v1/completions: a bare text, which is continued without the chat template."""

    prompt: str = Field(min_length=1)


class ScoreRequest(_Asked):
    """The body of /score."""

    texts: list[Annotated[str, Field(min_length=1)]] = Field(min_length=1, max_length=MOST_TEXTS)
    prompt: str | None = None
    """What the texts answer."""
    tokens: bool = False
    """Whether each token's cosine with the direction is told, too."""


FIELDS = {**ChatRequest.model_fields, **CompletionRequest.model_fields, **ScoreRequest.model_fields}
"""All that there are."""
