"""Whether a model is what the project takes it for: asked of the model itself, with two short texts, when it is loaded."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from probe.errors import ProbeError
from probe.lm.hooks import record
from probe.lm.sampling import continued, padded
from probe.lm.templates import ChatTemplate
from probe.lm.tokens import Encoded, PassageEncoder
from probe.lm.trees import collate

TEXTS = ("A grey hen.", "The lighthouse keeper counted every wave that night.")
"""Of unlike length, so that one of them is padded."""
ALIKE = ("The lighthouse keeper counted every wave that night.", "The lighthouse keeper slept.", "A grey hen.")
"""The first two begin alike."""


class ReadableLM(Protocol):
    """What is asked of a language model here."""

    model: Any
    tokenizer: Any
    spec: Any
    writes_in_batches: bool

    @property
    def encoder(self) -> PassageEncoder:
        """Texts to token ids."""

    @property
    def decoder(self) -> nn.Module:
        """Without its head."""

    @property
    def blocks(self) -> nn.ModuleList:
        """The decoder blocks."""

    @property
    def device(self) -> torch.device:
        """Where the inputs go."""


@dataclass(frozen=True)
class Check:
    """One thing that has to hold of a model."""

    name: str
    problem: Callable[[ReadableLM], str | None]
    """What was found instead, or None."""
    needed: bool = True
    """Without it the model is of no use here; else there is another way, which is slower."""


def tokens_have_embeddings(lm: ReadableLM) -> str | None:
    """The tokenizer is that of the model."""
    last = lm.model.get_input_embeddings().weight.shape[0] - 1
    highest = max(lm.encoder.pad_id, *(i for row in lm.encoder.ids([*TEXTS]) for i in row))
    return f"the embeddings end at token {last}, and the tokenizer gives {highest}" if highest > last else None


@torch.inference_mode()
def a_token_does_not_see_what_follows(lm: ReadableLM) -> str | None:
    """Causal: BERT and its kin call themselves decoders too."""
    ids = torch.tensor([[1, 2], [1, 3]], device=lm.device)
    one, other = lm.decoder(input_ids=ids, use_cache=False)[0][:, 0]
    same = torch.allclose(one, other, rtol=1e-2, atol=1e-3, equal_nan=True)
    return None if same else "a token sees what follows it"


def every_block_gives_one_state_a_token(lm: ReadableLM) -> str | None:
    """Every block runs once in a forward pass, and its output is the residual stream `[B, T, D]`."""
    ids = lm.encoder.ids([TEXTS[0]])
    runs = _states(lm, ids)
    for k, states in enumerate(runs):
        if len(states) != 1:
            return f"its block {k} runs {len(states)} times while a text is read"
        if states[0].shape[:-1] != (1, len(ids[0])):
            return f"its block {k} gives {list(states[0].shape)} for one text of {len(ids[0])} tokens"
    return None


def reading_in_batches_changes_nothing(lm: ReadableLM) -> str | None:
    """Padded on the right and without a mask, as texts are read."""
    short, long = lm.encoder.ids([*TEXTS])
    alone, batch = _states(lm, [short])[-1][0][0, -1], _states(lm, [short, long])[-1][0]
    apart = _distance(alone, batch[1, -1])
    differs = _distance(alone, batch[0, len(short) - 1]) >= _tolerance(lm) * apart
    return "a text's states depend on the texts beside it" if differs else None


@torch.inference_mode()
def writing_in_batches_changes_nothing(lm: ReadableLM) -> str | None:
    """Padded on the left and masked, with the cache, as texts are written."""
    short, long = lm.encoder.ids([*TEXTS])
    alone, batch = (
        continued(lm.model, *padded(rows, lm.encoder.pad_id, lm.device), 2, output_logits=True)
        for rows in ([short], [short, long])
    )
    apart = _distance(alone.logits[0][0], batch.logits[0][1])
    same_so_far = alone.sequences[0, len(short)] == batch.sequences[0, len(long)]
    differs = any(
        _distance(own[0], padded[0]) >= _tolerance(lm) * apart
        for own, padded in list(zip(alone.logits, batch.logits, strict=False))[: 1 + int(same_so_far)]
    )
    return "the text that it writes depends on the padding before its prompt" if differs else None


@torch.inference_mode()
def reading_a_tree_changes_nothing(lm: ReadableLM) -> str | None:
    """Texts that begin alike in one row: the model heeds a 4-D mask and the positions that it is given, and nothing else."""
    rows = lm.encoder.ids([*ALIKE])
    texts = [Encoded(tuple(row), (True,) * len(row)) for row in rows]
    batch = collate([texts[:2], texts[2:]], range(3), lm.encoder.pad_id, lm.model.dtype, lm.device)
    states: dict[int, Tensor] = {}
    with record(dict(enumerate(lm.blocks)), states.__setitem__):
        lm.decoder(**batch.inputs, use_cache=False)
    alone = [_states(lm, [row]) for row in rows]
    tolerance = 1e-4 if lm.model.dtype == torch.float32 else 0.1
    paths = batch.pool_mask.bool().flatten(0, 1)[batch.place]
    for k, state in states.items():
        apart = _distance(alone[0][k][0][0, -1], alone[1][k][0][0, -1])
        for b, path, own in zip((0, 0, 1), paths, alone, strict=True):
            # At every token, for what reaches a few tokens back (a convolution) errs only behind a fork.
            expected = own[k][0][0].float()
            differ = (state[b, path].float() - expected).norm(dim=-1)
            if not (differ <= tolerance * expected.norm(dim=-1).clamp_min(apart)).all():
                return f"after block {k} a text's states depend on those that begin alike"
    return None


CHECKS = (
    Check("tokens have embeddings", tokens_have_embeddings),
    Check("a token does not see what follows", a_token_does_not_see_what_follows),
    Check("every block gives one state a token", every_block_gives_one_state_a_token),
    Check("reading in batches changes nothing", reading_in_batches_changes_nothing),
    Check("writing in batches changes nothing", writing_in_batches_changes_nothing, needed=False),
)


def examine(lm: ReadableLM) -> None:
    """Tries the template and makes every check; says what a person should know of either.

    Raises:
        ProbeError: where the model cannot be used.
    """
    ChatTemplate(lm.tokenizer, lm.spec).try_out()
    for note in lm.encoder.template.notes():
        warnings.warn(note, stacklevel=3)
    for check in CHECKS:
        if problem := outcome(check, lm):
            option = f"--lm.model {lm.spec.model}"
            if check.needed:
                raise ProbeError(
                    f"{option}: expected a decoder-only model that can be read block by block, but in "
                    f"{type(lm.model).__name__} {problem}; choose another causal LM."
                )
            warnings.warn(f"{option}: {problem}, so texts are written one by one, which is slower.", stacklevel=3)
            lm.writes_in_batches = False


def reads_trees(lm: ReadableLM) -> bool:
    """Whether texts that begin alike may share a row: not with ALiBi, a recurrence, or an attention that takes no mask."""
    return outcome(Check("reading a tree changes nothing", reading_a_tree_changes_nothing), lm) is None


def outcome(check: Check, lm: ReadableLM) -> str | None:
    """What a check found instead, an exception included; None where it holds."""
    try:
        return check.problem(lm)
    except ProbeError:
        raise
    except Exception as error:  # anything may come out of a model whose config, weights and tokenizer disagree
        return f"reading a short text fails ({' '.join(str(error).split())[:160] or type(error).__name__})"


@torch.inference_mode()
def _states(lm: ReadableLM, rows: Sequence[Sequence[int]]) -> list[list[Tensor]]:
    """What each block gave, at each time that it ran, for texts padded on the right."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[lm.encoder.pad_id] * (longest - len(row))] for row in rows], device=lm.device)
    runs: list[list[Tensor]] = [[] for _ in lm.blocks]
    never = nn.Identity()  # stands for a deeper block: what comes after the last one is to run as well
    with record(dict(enumerate([*lm.blocks, never])), lambda k, h: runs[k].append(h)):
        lm.decoder(input_ids=ids, use_cache=False)
    return runs


def _distance(one: Tensor, other: Tensor) -> float:
    return float((one.float() - other.float()).norm())


def _tolerance(lm: ReadableLM) -> float:
    """Share of the distance of two texts: rounding moves 1e-5 of it in float32, 1e-2 in half precision; a fault 0.2 or more."""
    return 0.01 if lm.model.dtype == torch.float32 else 0.1
