"""Asking a language model in words, at any OpenAI-compatible endpoint; what it thought before it spoke is left out."""

import asyncio
import importlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from probe.errors import ProbeError
from probe.files import from_json
from probe.options.types import KeyVariable, NonNegativeInt, PositiveFloat, PositiveInt

Keep = Callable[[str, str], None]
"""Takes a prompt and its reply as soon as it is there."""
Ask = Callable[[Sequence[str], Keep], None]
"""Asks all prompts, in any order."""


def spoken(reply: str) -> str:
    """What follows a model's last thought; nothing where it never stopped thinking."""
    said = re.split(r"</think>|\[/THINK\]", reply)[-1]  # the second as Mistral's reasoning models write it
    return "" if re.search(r"<think>|\[THINK\]", said) else said


@dataclass
class Endpoint:
    """An OpenAI-compatible chat endpoint; its key comes from the environment only.

    Args:
        model: The model's name there.
        url: Base URL, for example http://localhost:8000/v1 of `transformers serve`, vLLM or llama.cpp; a config may name this
            machine, any other only the command line.
        key_variable: Environment variable that holds the key, named ..._API_KEY or ..._TOKEN; only the command line may name it.
        timeout: Seconds that one answer may take, to its last byte.
        retries: How often a time-out, rate limit or server error is tried again, with growing pauses.
        workers: Questions under way at once.
    """

    model: str
    url: str = "http://localhost:8000/v1"
    key_variable: KeyVariable = "OPENAI_API_KEY"
    timeout: PositiveFloat = 120.0
    retries: NonNegativeInt = 5
    workers: PositiveInt = 4


def endpoint_ask(endpoint: Endpoint, max_new_tokens: int, temperature: float, seed: int) -> Ask:
    """A function that asks an endpoint, some questions at once; Ctrl-C ends it, whatever hangs.

    Raises:
        ProbeError: where the `openai` package is missing; later, where the endpoint gives no answer after all retries, or
            gives what is none.
    """
    try:
        import openai
    except ImportError as error:
        raise ProbeError(
            "an endpoint needs the `openai` package, found none; install it with: pip install 'lm-probe[ask]'."
        ) from error
    key = _key_for(endpoint)
    # Its client's own time-out is that of one read: a server that drips would never meet it. The later versions of the
    # package speak through httpx2, the earlier ones through httpx.
    http: Any = importlib.import_module(openai.DefaultAsyncHttpxClient.__mro__[1].__module__.partition(".")[0])

    class Client(openai.DefaultAsyncHttpxClient):
        async def send(self, request: Any, **options: Any) -> Any:
            try:
                async with asyncio.timeout(endpoint.timeout):
                    return await super().send(request, **options)
            except TimeoutError as error:
                raise http.ReadTimeout("the answer took too long", request=request) from error

    async def ask_one(client: openai.AsyncOpenAI, prompt: str) -> str:
        try:
            answer = await client.chat.completions.with_raw_response.create(
                model=endpoint.model,
                messages=[{"role": "user", "content": prompt}],
                max_tokens=max_new_tokens,
                temperature=temperature,
                seed=seed,
            )
        except openai.APIError as error:
            raise ProbeError(
                f"{endpoint.url}: no answer after {endpoint.retries} retries ({' '.join(str(error).split())[:200]}); what was "
                "answered is kept, so the same command goes on from there."
            ) from error
        return read_answer(answer.http_response.text, endpoint.url)

    async def ask_all(prompts: Sequence[str], keep: Keep) -> None:
        waiting = list(reversed(prompts))

        async def work(client: openai.AsyncOpenAI) -> None:
            try:
                while waiting:
                    prompt = waiting.pop()
                    keep(prompt, await ask_one(client, prompt))
            finally:
                waiting.clear()  # after a failure nothing new is asked, but what is under way is still kept

        async with openai.AsyncOpenAI(
            base_url=endpoint.url,
            api_key=key,
            timeout=endpoint.timeout,
            max_retries=endpoint.retries,
            http_client=Client(),
        ) as client:
            ended = await asyncio.gather(*(work(client) for _ in range(endpoint.workers)), return_exceptions=True)
        for error in filter(None, ended):
            raise error

    return lambda prompts, keep: asyncio.run(ask_all(prompts, keep))


def _key_for(endpoint: Endpoint) -> str:
    """The key; a URL or a key that no request could carry is refused before anything is asked."""
    try:
        parts = urlsplit(endpoint.url)
        sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # half an IPv6 address, a port beyond all ports
        sound = False
    if not sound:
        raise ProbeError(
            f"--endpoint.url: expected an address such as http://localhost:8000/v1, found {endpoint.url!r}; correct it."
        )
    key = os.environ.get(endpoint.key_variable, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ProbeError(
            f"{endpoint.key_variable}: expected a key of printable ASCII, found another; correct the variable."
        )
    return key or "none"


def read_answer(body: str, url: str) -> str:
    """The text of a chat completion; empty where the model said nothing.

    Raises:
        ProbeError: where it is none, such as the web page of a wrong address.
    """
    try:
        answer = from_json(body)
    except ValueError:
        answer = None
    match answer:
        case {"choices": [{"message": {"content": str(text)}}, *_]}:
            return text.encode("utf-8", "replace").decode()  # half of a surrogate pair can be neither kept nor read
        case {"choices": [{"message": {"content": [_, *_]}}, *_]}:
            pass  # in parts: it says something, and asking again would not change the form
        case {"choices": [{"message": {}}, *_] | []}:
            return ""
    raise ProbeError(
        f"{url}: expected a chat completion, found {' '.join(body.split())[:100]!r}; is this the address of an OpenAI-compatible "
        "endpoint, with its /v1?"
    )
