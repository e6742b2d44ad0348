"""pairs: a language model negates the premise of creative prompts, or answers both sides of the pairs that there are."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from probe.data.concept import CREATIVE, less
from probe.data.rows import StoryPrompt, TextPair, read_rows
from probe.data.texts import words_of
from probe.errors import ProbeError
from probe.files import try_file, write_json_lines
from probe.lm.chat import Ask, Endpoint, Keep, endpoint_ask
from probe.lm.replies import ReplyLog
from probe.lm.spec import LMSpec
from probe.options.types import AtLeastOne, FilePath, NonNegativeFloat, PositiveInt, Seed

NEGATE = """Below is an instruction to write a story. Write a second instruction that negates its premise: keep the setting, \
the characters, the kind of request, the opening words and the length, but let what is inventive in it not happen; something \
that would commonly happen there happens instead. Do not use words such as ordinary, normal, boring or nothing. Answer with \
the second instruction alone.

{prompt}"""
"""The paper had GPT-4o negate 500 creative instructions in this spirit (Olson et al. 2024, section 3)."""
OTHERWISE = """Below is an instruction, and what answers it should be {concept}. Write a second instruction for what is {less}: \
keep the setting, the kind of request, the opening words and the length. Answer with the second instruction alone.

{prompt}"""
"""The same for another concept, without naming what the premise holds."""

TOGETHER = 32
"""Prompts that a local model answers in one go."""


@dataclass(frozen=True)
class Reject:
    """A reply that makes no pair, and why."""

    creative: str
    group: str
    reply: str
    reason: str


def run(
    input: FilePath,
    output: FilePath,
    lm: LMSpec | None = None,
    endpoint: Endpoint | None = None,
    ask: str | None = None,
    concept: str = CREATIVE,
    max_new_tokens: PositiveInt = 200,
    temperature: NonNegativeFloat = 0.7,
    seed: Seed = 0,
    longest: AtLeastOne = 1.5,
    respond: bool = False,
    dry_run: bool = False,
) -> int:
    """Writes contrastive pairs from creative prompts, or the answers to pairs; a second run asks only what has no reply yet.

    Replies are kept in OUTPUT.replies.db, those that make no pair, with the reason, in OUTPUT.rejected.jsonl.

    Args:
        input: JSONL or CSV of prompts: creative, group. With --respond of pairs.
        output: Where the pairs go: creative, uncreative, group. With --respond also response_creative and response_uncreative.
        lm: A local instruct model to ask.
        endpoint: An OpenAI-compatible endpoint to ask instead; its key comes from the environment.
        ask: What is asked, with {prompt} where the creative prompt stands; by default for the premise's negation, or for what is
            less so, whatever the concept.
        concept: What the prompts ask for, an adjective.
        max_new_tokens: Longest reply.
        temperature: 0 is greedy.
        seed: Of the sampling, where the model heeds it.
        longest: A side may have at most so many times the words of the other.
        respond: Have the model answer both sides of each pair, so that a direction can be read over its own texts, as in the
            paper; `max_new_tokens` is the length of an answer.
        dry_run: Print what would be asked, and stop.
    """
    from probe.shown.terminal import Terminal

    console = Terminal()
    ask = ask or (
        "{prompt}"
        if respond
        else NEGATE
        if concept == CREATIVE
        else OTHERWISE.replace("{concept}", concept).replace("{less}", less(concept))
    )
    if "{prompt}" not in ask:
        raise ProbeError("--ask: expected {prompt} where the prompt is to stand, found none; add it.")
    given = read_rows(input, TextPair) if respond else []
    rows = [] if respond else read_rows(input, StoryPrompt)
    prompts = [side for pair in given for side in (pair.creative, pair.uncreative)] or [row.creative for row in rows]
    questions = [ask.replace("{prompt}", prompt) for prompt in prompts]
    if dry_run:
        for question in questions:
            console.print(question, "\n")
        console.print(f"{len(questions)} questions; nothing was asked.")
        return 0
    if (lm is None) == (endpoint is None):
        raise ProbeError("expected one model to ask, found none or two; give --lm.model NAME or --endpoint.model NAME.")
    for file in (output, f"{output}.rejected.jsonl", f"{output}.replies.db"):
        try_file(file, "--output")
    log = ReplyLog(Path(f"{output}.replies.db"), "--output")
    name = endpoint.model if endpoint else lm.model if lm else ""
    settings = f"{name} {max_new_tokens} {temperature} {seed}"
    asking = (
        endpoint_ask(endpoint, max_new_tokens, temperature, seed)
        if endpoint
        else _local(lm, max_new_tokens, temperature, seed)
    )
    replies = log.ask_all(questions, asking, settings)
    pairs, rejects = answered(given, replies) if respond else sort_replies(rows, replies, longest)
    write_json_lines(Path(output), pairs)
    write_json_lines(Path(f"{output}.rejected.jsonl"), map(vars, rejects))
    console.print(
        f"{len(pairs)} pairs are in {output}; {len(rejects)} replies made none (see {output}.rejected.jsonl)."
    )
    console.print(f"Next: read them, then probe audit --data.pairs {output}")
    if not pairs:
        raise ProbeError(
            f"no reply made a pair (first reason: {rejects[0].reason}); try a larger instruct model or another --ask."
        )
    return 0


def _local(lm: LMSpec | None, max_new_tokens: int, temperature: float, seed: int) -> Ask:
    from probe.lm.frozen import FrozenLM

    assert lm is not None
    frozen = FrozenLM.load(lm)

    def ask(prompts: Sequence[str], keep: Keep) -> None:
        for start in range(0, len(prompts), TOGETHER):  # what a kill can lose
            some = prompts[start : start + TOGETHER]
            for prompt, reply in zip(some, frozen.generate(some, max_new_tokens, temperature, seed), strict=True):
                keep(prompt, reply)

    return ask


def answered(given: Sequence[TextPair], replies: Sequence[str]) -> tuple[list[dict[str, str]], list[Reject]]:
    """The pairs with an answer to each side; those with an empty one are rejected."""
    pairs, rejects = [], []
    for pair, more, less_ in zip(given, replies[::2], replies[1::2], strict=True):
        if more.strip() and less_.strip():
            pairs.append(asdict(replace(pair, response_creative=more, response_uncreative=less_)))
        else:
            rejects.append(Reject(pair.creative, pair.group, more or less_, "an empty answer"))
    return pairs, rejects


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
