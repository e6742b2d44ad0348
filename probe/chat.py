"""Asking a language model in words: here with a local model, or at any OpenAI-compatible endpoint; nothing is asked twice."""

import hashlib
import json
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from probe.errors import ProbeError

Ask = Callable[[str], str]


@dataclass
class Endpoint:
    """An OpenAI-compatible chat endpoint; its key comes from the environment only.

    Args:
        model: The model's name there.
        url: Base URL, for example http://localhost:8000/v1 of `transformers serve`, vLLM or llama.cpp.
        key_variable: Environment variable that holds the key; a server without keys needs none.
        timeout: Seconds to wait for one answer.
        retries: How often a time-out, rate limit or server error is tried again, with growing pauses.
        workers: Questions under way at once.
    """

    model: str
    url: str = "http://localhost:8000/v1"
    key_variable: str = "OPENAI_API_KEY"
    timeout: float = 120.0
    retries: int = 5
    workers: int = 4


def endpoint_ask(endpoint: Endpoint, max_new_tokens: int, temperature: float, seed: int) -> Ask:
    """A function that asks an endpoint.

    Raises:
        ProbeError: where the `openai` package is missing; later, where the endpoint gives no answer after all retries.
    """
    try:
        import openai
    except ImportError as error:
        raise ProbeError(
            "an endpoint needs the `openai` package, found none; install it with: pip install 'probe[ask]'."
        ) from error
    client = openai.OpenAI(
        base_url=endpoint.url,
        api_key=os.environ.get(endpoint.key_variable) or "none",
        timeout=endpoint.timeout,
        max_retries=endpoint.retries,
    )

    def ask(prompt: str) -> str:
        try:
            answer = client.chat.completions.create(
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
        return (answer.choices[0].message.content if answer.choices else None) or ""

    return ask


class ReplyLog:
    """Questions and their replies as JSON lines; each is on the disk before the next is counted on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._replies: dict[str, str] = {}
        lines = path.read_bytes().split(b"\n") if path.exists() else []
        for line in filter(None, lines):
            try:
                record = json.loads(line)
                self._replies[record["key"]] = record["reply"]
            except (ValueError, KeyError, TypeError):
                continue  # the line that a kill cut off: it is asked again
        self._torn = bool(lines and lines[-1])

    def ask_all(self, prompts: Sequence[str], ask: Ask, settings: str, workers: int) -> list[str]:
        """Replies in the order of the prompts; only what was never answered under these settings is asked."""
        from rich.progress import track

        keys = [hashlib.sha256(f"{settings}\0{prompt}".encode()).hexdigest() for prompt in prompts]
        missing = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in self._replies}

        def answer(key: str) -> None:
            self._put(key, missing[key], ask(missing[key]))

        executor = ThreadPoolExecutor(workers)
        try:
            for _ in track(executor.map(answer, missing), "asking", len(missing), disable=not missing):
                pass
        finally:
            executor.shutdown(cancel_futures=True)
        return [self._replies[key] for key in keys]

    def _put(self, key: str, prompt: str, reply: str) -> None:
        line = json.dumps({"key": key, "prompt": prompt, "reply": reply}, ensure_ascii=False) + "\n"
        with self._lock, self.path.open("a", encoding="utf-8") as file:
            file.write("\n" + line if self._torn else line)
            file.flush()
            os.fsync(file.fileno())
            self._torn = False
            self._replies[key] = reply
