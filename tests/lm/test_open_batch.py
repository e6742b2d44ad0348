"""Lines that join a batch while others are being written are each what they would be alone, whoever comes and goes."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from tiny import n_hooks, widths, wordy

from probe.lm.frozen import FrozenLM
from probe.lm.hooks import edit
from probe.lm.open_batch import Line, OpenBatch, Step
from probe.lm.sampling import KeyedNoise
from probe.lm.spec import Tokens

MakeLM = Callable[..., FrozenLM]
PROMPTS = ["Write.", "Tell me of a grey hen and of the sea, and of what came after it.", "x", "Of rain.", "y", "A hen?"]
LIMITS = [24, 9, 30, 5, 17, 24]
DELTA = torch.linspace(-0.5, 0.5, 32)


def line_of(lm: FrozenLM, prompt: str, limit: int, temperature: float = 0.0, how: float = 0.0) -> Line:
    noise = KeyedNoise([prompt], [3], temperature, lm.device) if temperature else None
    return Line(lm.encoder.ids([lm.encoder.render(prompt)])[0], limit, noise, how)


def by_its_own(lm: FrozenLM) -> Callable[[Sequence[Line], Tokens], AbstractContextManager[None]]:
    """Steers each line by its own share of one vector after block 1."""
    return lambda lines, _: edit({lm.blocks[1]: torch.stack([line.how * DELTA for line in lines])})


def texts_of(lm: FrozenLM, lines: Sequence[Line]) -> list[str]:
    return lm._texts([line.new for line in lines])


def staggered(batch: OpenBatch, lines: Sequence[Line], steps: int = 3) -> None:
    """A line comes to the door after every few steps."""
    waiting, taken = list(lines), 0

    def knocks() -> bool:
        nonlocal taken
        taken += 1
        return bool(waiting) and taken % steps == 0 and batch.room > 0

    while waiting or batch.lines:
        if waiting and batch.room:
            batch.join([waiting.pop(0)])
        batch.write_on(knocks)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2", "mistral", "gemma3_text", "mamba"])
def test_a_line_that_joins_midway_is_what_it_is_alone(make_lm: MakeLM, architecture: str, temperature: float) -> None:
    lm = wordy(make_lm(architecture))
    before = n_hooks(lm.model)
    batch = OpenBatch(lm, 4, lambda *_: nullcontext())
    lines = [line_of(lm, prompt, n, temperature) for prompt, n in zip(PROMPTS, LIMITS, strict=True)]
    shapes = widths(lm, lambda: staggered(batch, lines))
    alone = [lm.write([p], n, temperature, 3)[0].text for p, n in zip(PROMPTS, LIMITS, strict=True)]
    assert texts_of(lm, lines) == alone
    assert len({len(line.new) for line in lines}) > 2
    assert all((line.end == "length") <= (len(line.new) == line.limit) for line in lines)
    together = architecture != "mamba"  # from a recurrent state no row can be taken
    assert (max(rows for rows, _ in shapes) > 1) == together
    assert n_hooks(lm.model) == before


def test_lines_that_are_steered_unlike_share_a_pass(make_lm: MakeLM) -> None:
    lm = wordy(make_lm())
    lines = [line_of(lm, prompt, 16, how=6.0 * i) for i, prompt in enumerate(PROMPTS)]
    staggered(OpenBatch(lm, 6, by_its_own(lm)), lines)
    alone = []
    for line, prompt in zip(lines, PROMPTS, strict=True):
        with edit({lm.blocks[1]: line.how * DELTA}):
            alone.append(lm.write([prompt], 16, 0.0, 3)[0].text)
    assert texts_of(lm, lines) == alone
    assert alone[1:] != [lm.write([prompt], 16, 0.0, 3)[0].text for prompt in PROMPTS[1:]]


def test_the_columns_of_a_long_line_go_with_it(make_lm: MakeLM) -> None:
    lm = make_lm()
    batch = OpenBatch(lm, 4, lambda *_: nullcontext())
    long, short = line_of(lm, "of rain " * 40, 4), line_of(lm, "x", 40)
    batch.join([long, short])
    wide = batch._ids.shape[1]
    batch.write_on(lambda: False)  # until the long one is over
    assert long.end == "length"
    assert wide > len(long.prompt) > 300
    assert batch._ids.shape[1] == len(short.prompt) + len(short.new) < 40
    assert {layer.keys.shape[2] for layer in batch._cache["cache"].layers} == {batch._ids.shape[1] - 1}
    batch.write_on(lambda: False)
    assert texts_of(lm, [short]) == [lm.write(["x"], 40, 0.0, 0)[0].text]


def test_a_line_that_nobody_wants_leaves_and_makes_room(make_lm: MakeLM) -> None:
    lm = make_lm()
    batch = OpenBatch(lm, 2, lambda *_: nullcontext())
    lines = [line_of(lm, prompt, 400) for prompt in PROMPTS[:2]]
    rooms: list[int] = []
    lines[0].tell = lambda line: setattr(line, "gone", len(line.new) == 7)
    lines[1].tell = lambda line: rooms.append(batch.room)
    batch.join(lines)
    assert batch.room == 0
    batch.write_on(lambda: False)
    assert len(lines[0].new) == len(lines[1].new) == 7
    assert batch.lines == [lines[1]]
    assert batch.room == 1
    assert rooms == [2] + 5 * [0] + [1]  # also while they are being written


def test_every_token_is_told_once_and_in_order(make_lm: MakeLM) -> None:
    lm = wordy(make_lm())
    told: dict[int, list[int]] = {}
    lines = [line_of(lm, prompt, 20) for prompt in PROMPTS]
    for i, line in enumerate(lines):
        line.tell = lambda line, i=i: told.setdefault(i, []).append(line.new[-1])
    staggered(OpenBatch(lm, 3, lambda *_: nullcontext()), lines, steps=2)
    assert [told[i] for i in range(len(lines))] == [line.new for line in lines]


def test_a_step_that_a_device_takes_too_many_gives_no_token() -> None:
    line = Line([1], 2)
    step = Step([line], [], lambda: False)
    assert [bool(step(torch.tensor([[1, token]]), None)) for token in (7, 8, 9)] == [False, True, True]
    assert (line.new, line.end) == ([7, 8], "length")
    other = Line([1], 9)
    step = Step([other], [], lambda: True)
    assert [bool(step(torch.tensor([[1, token]]), None)) for token in (7, 8)] == [True, True]
    assert other.new == [7]
