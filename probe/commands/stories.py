"""stories: the paper's experiment, with the controls it lacks, and judges that share nothing with the steering."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from probe.chat import Ask, Endpoint, ReplyLog, endpoint_ask
from probe.errors import ProbeError
from probe.spec import DataFiles, LMSpec, Writing

if TYPE_CHECKING:
    from probe.directions import Direction, Recommended
    from probe.lm import FrozenLM

JUDGE_TOKENS = 16
"""A judge is asked for one letter; what goes on and on is cut and not read."""


@dataclass
class Steering(Writing):
    """How the steered stories are made, and how all are written; the section of a `fit` config is understood.

    Args:
        strengths: How much of the direction to add; of several the last. By default what the direction recommends.
        strength_unit: gap (distance of the two classes), norm (share of the residual norm) or absolute; gap by default.
        layer: After which block, or a list of blocks that share the strength out; by default as the direction recommends.
    """

    strengths: list[float] | None = None
    strength_unit: Literal["absolute", "gap", "norm"] | None = None
    layer: int | list[int] | None = None


def run(
    data: DataFiles,
    direction: str | None = None,
    lm: LMSpec | None = None,
    steering: Steering = Steering(),  # noqa: B008  (read, never changed)
    ask: str = "{prompt} Be creative.",
    adapter: str | None = None,
    n_prompts: int = 100,
    self_judge: bool = False,
    endpoint: Endpoint | None = None,
    concept: str = "creative",
    n_judged: int = 40,
    replies: str = ".cache/replies.jsonl",
    ballot: int = 0,
    rows: int = 64,
    other_model: bool = False,
    output: str = "lightning_logs/stories",
) -> int:
    """Writes stories from creative and uncreative prompts, steered and by the controls, and has them compared.

    Args:
        data: The files that the direction was fitted with.
        direction: Folder of a saved direction; the newest under lightning_logs by default.
        lm: The model; by default the one that the direction was made with.
        steering: How the steered stories are made, and how all are written.
        ask: The prompt baseline; {prompt} stands for the uncreative prompt.
        adapter: Folder of a LoRA writer that `fit --model LoRAWriter` left, as a further control, at the KL of steering.
        n_prompts: Uncreative prompts, from the test groups alone; all where there are fewer.
        self_judge: Let the model itself compare the stories in words.
        endpoint: An OpenAI-compatible endpoint that compares them; its key comes from the environment.
        concept: What the judges are asked for, an adjective.
        n_judged: Prompts whose stories judges compare, each pair in both orders.
        replies: Where judges' replies are kept; nothing is asked twice.
        ballot: How many blinded pairs of the paper's three sets to write out for people; `python -m probe votes` reads the
            votes back.
        rows: Texts written at once: more is faster until memory ends.
        other_model: Admit a model with other weights than those that the direction was made with.
        output: Folder of the runs.
    """
    from lightning.pytorch.loggers import TensorBoardLogger
    from rich.console import Console

    from probe.adapters import attach
    from probe.ballot import write_ballot
    from probe.held_out import open_direction, unseen_ground
    from probe.pairwise import by_judge
    from probe.steering import Sampling
    from probe.stories import OF_THE_PAPER, write_stories
    from probe.stories_report import StoriesReport

    if "{prompt}" not in ask:
        raise ProbeError("--ask: expected {prompt} where the uncreative prompt is to stand, found none; add it.")
    if min(n_prompts, n_judged) < 1:
        raise ProbeError(
            f"--n_prompts, --n_judged: expected 1 or more, found {min(n_prompts, n_judged)}; leave the judges out instead."
        )
    writing = Sampling(steering.max_new_tokens, steering.temperature, steering.seed, rows=rows)
    _, found, rows_of, frozen = open_direction(direction, data, lm, other_model)
    how = _how(steering, found)
    found.deltas(how.strength, how.unit, how.layers)  # refuses what cannot be before anything is written
    writing = replace(writing, tokens=how.tokens)
    ground = unseen_ground(frozen, found, rows_of, writing, steering.witness, n_prompts)
    if adapter:
        frozen.adapter = attach(frozen, Path(adapter), found.provenance["data_fingerprint"])
    board = TensorBoardLogger(output, name="", default_hp_metric=False)
    Path(board.log_dir).mkdir(parents=True)
    judges = _judges(frozen if self_judge else None, endpoint, Path(replies))
    console = Console(width=None if sys.stdout.isatty() else 120)
    say = partial(console.print, highlight=False, markup=False)
    sets = write_stories(ground, how, ask, steering.seed, say, console.is_terminal)
    report = StoriesReport(board, sets)
    pairs = sets.comparisons(n_judged)
    for name, ask_all in judges.items():
        say(f"{name} compares {len(pairs)} pairs of stories, in both orders")
        report.add_judge(name, by_judge(pairs, ask_all, concept), n_judged)
    report.write(console)
    left = "stories.json, stories.csv, texts.jsonl"
    if ballot:
        asked = [c for c in sets.comparisons() if {c.set_a, c.set_b} <= OF_THE_PAPER]
        sheet, key = write_ballot(asked, report.folder, ballot, steering.seed)
        left += f", {sheet.name} (give copies of it to people), {key.name} (keep it from them)"
    say(f"\nEverything is in {report.folder}: {left}.")
    say(f"Next: tensorboard --logdir {output}")
    if ballot:
        say(f"  or: python -m probe votes ann.csv bo.csv --key {key}")
    return 0


def _how(steering: Steering, direction: "Direction") -> "Recommended":
    """How to steer: as was asked for, else as the direction recommends."""
    from probe.directions import as_layers

    how = direction.recommended
    if steering.strength_unit and not steering.strengths:
        raise ProbeError(
            f"steering.strength_unit {steering.strength_unit}: expected strengths beside it, found none; say how much."
        )
    if steering.tokens:
        how = replace(how, tokens=steering.tokens)
    if steering.strengths:
        how = replace(how, strength=steering.strengths[-1], unit=steering.strength_unit or "gap")
    return how if steering.layer is None else replace(how, layers=as_layers(steering.layer))


AskAll = Callable[[Sequence[str]], list[str]]


def _judges(lm: "FrozenLM | None", endpoint: Endpoint | None, replies: Path) -> dict[str, AskAll]:
    """Judge -> how to ask it; one that cannot be asked is found here, before any story is written."""
    asks: dict[str, tuple[Ask, str, int]] = {}
    if lm is not None:
        model = lm

        def ask_itself(question: str) -> str:
            with model.adapted(0):
                return model.generate([question], JUDGE_TOKENS, 0.0, 0)[0]

        asks["the model itself"] = (ask_itself, f"{lm.fingerprint} {lm.template_hash} {lm.spec.system}", 1)
    if endpoint:
        asked_at = f"{endpoint.url} {endpoint.model}"
        asks[endpoint.model] = (endpoint_ask(endpoint, JUDGE_TOKENS, 0.0, 0), asked_at, endpoint.workers)
    if not asks:
        return {}
    replies.parent.mkdir(parents=True, exist_ok=True)
    log = ReplyLog(replies)

    def all_of(ask: Ask, name: str, workers: int) -> AskAll:
        return lambda questions: log.ask_all(questions, ask, f"judge {name} {JUDGE_TOKENS}", workers)

    judges = {name: all_of(*how) for name, how in asks.items()}
    for ask_all in judges.values():
        ask_all(["Answer with one letter alone: A."])
    return judges
