"""pairs: from creative prompts to contrastive pairs, by asking a language model to negate their premise."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from probe.audit import words_of
from probe.chat import Ask, Endpoint, ReplyLog, endpoint_ask
from probe.errors import ProbeError
from probe.files import write_json_lines
from probe.rows import StoryPrompt, read_rows
from probe.spec import LMSpec

NEGATE = """Below is an instruction to write a story. Write a second instruction that negates its premise: keep the setting, \
the characters, the kind of request, the opening words and the length, but let what is inventive in it not happen; something \
that would commonly happen there happens instead. Do not use words such as ordinary, normal, boring or nothing. Answer with \
the second instruction alone.

{prompt}"""
"""The paper had GPT-4o negate 500 creative instructions in this spirit (Olson et al. 2024, section 3)."""


@dataclass(frozen=True)
class Reject:
    """A reply that makes no pair, and why."""

    creative: str
    group: str
    reply: str
    reason: str


def run(
    input: str,
    output: str,
    lm: LMSpec | None = None,
    endpoint: Endpoint | None = None,
    ask: str = NEGATE,
    max_new_tokens: int = 200,
    temperature: float = 0.7,
    seed: int = 0,
    longest: float = 1.5,
    dry_run: bool = False,
) -> int:
    """Writes contrastive pairs from creative prompts; a second run asks only what has no reply yet.

    Replies are kept in OUTPUT.replies.jsonl, those that make no pair, with the reason, in OUTPUT.rejected.jsonl.

    Args:
        input: JSONL or CSV of prompts: creative, group.
        output: Where the pairs go: creative, uncreative, group.
        lm: A local instruct model to ask.
        endpoint: An OpenAI-compatible endpoint to ask instead; its key comes from the environment.
        ask: What is asked, with {prompt} where the creative prompt stands; for another concept say what is to be negated.
        max_new_tokens: Longest reply.
        temperature: 0 is greedy.
        seed: Of the sampling, where the model heeds it.
        longest: A side may have at most so many times the words of the other.
        dry_run: Print what would be asked, and stop.
    """
    from rich.console import Console

    console = Console()
    rows = read_rows(input, StoryPrompt)
    if "{prompt}" not in ask:
        raise ProbeError("--ask: expected {prompt} where the creative prompt is to stand, found none; add it.")
    questions = [ask.replace("{prompt}", row.creative) for row in rows]
    if dry_run:
        for question in questions:
            console.print(question, "\n", markup=False, highlight=False)
        console.print(f"{len(questions)} questions; nothing was asked.")
        return 0
    if (lm is None) == (endpoint is None):
        raise ProbeError("expected one model to ask, found none or two; give --lm.model NAME or --endpoint.model NAME.")
    log = ReplyLog(Path(f"{output}.replies.jsonl"))
    name = endpoint.model if endpoint else lm.model if lm else ""
    settings = f"{name} {max_new_tokens} {temperature} {seed}"
    asking = (
        endpoint_ask(endpoint, max_new_tokens, temperature, seed)
        if endpoint
        else _local(lm, max_new_tokens, temperature, seed)
    )
    replies = log.ask_all(questions, asking, settings, endpoint.workers if endpoint else 1)
    pairs, rejects = sort_replies(rows, replies, longest)
    write_json_lines(Path(output), pairs)
    write_json_lines(Path(f"{output}.rejected.jsonl"), map(vars, rejects))
    console.print(
        f"{len(pairs)} pairs are in {output}; {len(rejects)} replies made none (see {output}.rejected.jsonl)."
    )
    console.print(f"Next: read them, then python -m probe audit --data.pairs {output}", highlight=False)
    if not pairs:
        raise ProbeError(
            f"no reply made a pair (first reason: {rejects[0].reason}); try a larger instruct model or another --ask."
        )
    return 0


def _local(lm: LMSpec | None, max_new_tokens: int, temperature: float, seed: int) -> Ask:
    from probe.lm import FrozenLM

    assert lm is not None
    frozen = FrozenLM.load(lm)
    return lambda prompt: frozen.generate([prompt], max_new_tokens, temperature, seed)[0]


def sort_replies(
    rows: Sequence[StoryPrompt], replies: Sequence[str], longest: float
) -> tuple[list[dict[str, str]], list[Reject]]:
    """Pairs from the replies that can be the other side; the rest with the reason."""
    pairs, rejects = [], []
    for row, reply in zip(rows, replies, strict=True):
        other = reply.strip().strip('"“”').strip()
        n, m = len(words_of(row.creative)), len(words_of(other))
        reason = None
        if not m:
            reason = "empty"
        elif words_of(other) == words_of(row.creative):
            reason = "says the same as the prompt"
        elif max(n, m) > longest * min(n, m):
            reason = f"{m} words where the prompt has {n}"
        elif len(other.splitlines()) > 1 and len(row.creative.splitlines()) == 1:
            reason = "several lines where the prompt has one"
        if reason:
            rejects.append(Reject(row.creative, row.group, reply, reason))
        else:
            pairs.append({"creative": row.creative, "uncreative": other, "group": row.group})
    return pairs, rejects
