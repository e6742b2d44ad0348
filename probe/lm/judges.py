"""Judges: models that are asked for one letter, each question once, and found to answer before anything expensive begins."""

import json
from collections.abc import Callable, Sequence

from probe.lm.chat import Ask, Endpoint, Keep, endpoint_ask
from probe.lm.frozen import FrozenLM
from probe.lm.replies import ReplyLog

TOKENS = 16
"""One letter is asked for; what goes on and on is cut and not read."""
AskAll = Callable[[Sequence[str]], list[str]]
"""Questions to replies, in their order."""


def endpoint_judge(log: ReplyLog, endpoint: Endpoint) -> AskAll:
    """A model elsewhere.

    Raises:
        ProbeError: where it does not answer.
    """
    return _judge(log, endpoint_ask(endpoint, TOKENS, 0.0, 0), f"{endpoint.url} {endpoint.model}")


def own_judge(log: ReplyLog, lm: FrozenLM) -> AskAll:
    """The model itself, without its adapter."""

    def ask_itself(questions: Sequence[str], keep: Keep) -> None:
        with lm.adapted(0):
            for question in questions:
                keep(question, lm.generate([question], TOKENS, 0.0, 0)[0])

    return _judge(log, ask_itself, f"{lm.fingerprint} {json.dumps(lm.encoder.reading, sort_keys=True)}")


def _judge(log: ReplyLog, ask: Ask, settings: str) -> AskAll:
    def ask_all(questions: Sequence[str]) -> list[str]:
        return log.ask_all(questions, ask, f"judge {settings} {TOKENS}")

    ask_all(["Answer with one letter alone: A."])
    return ask_all
