"""stories: the paper's experiment, with the controls it lacks, and judges that share nothing with the steering."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from probe.chat import Ask, Endpoint, ReplyLog, endpoint_ask
from probe.errors import ProbeError
from probe.spec import DataFiles, LMSpec

if TYPE_CHECKING:
    from rich.console import Console

    from probe.lm import FrozenLM
    from probe.pairwise import Judged
    from probe.stories import StorySets

JUDGE_TOKENS = 16
"""A judge is asked for one letter; what goes on and on is cut and not read."""


@dataclass
class Steering:
    """How the steered stories are made; the section of a `fit` config is understood.

    Args:
        strengths: How much of the direction to add; of several the last. By default what the direction recommends.
        strength_unit: gap (distance of the two classes), norm (share of the residual norm) or absolute.
        layer: After which block, or a list of blocks that share the strength out; by default as the direction recommends.
        tokens: Which tokens are steered: all, those of the prompt, or those generated.
        max_new_tokens: Length limit of a story.
        temperature: Sampling temperature; 0 is greedy.
        witness: `storyteller` lets the embedded model's grammar read the stories; `none` for any other model.
        seed: Of the sampling and of random directions.
    """

    strengths: list[float] | None = None
    strength_unit: Literal["absolute", "gap", "norm"] = "gap"
    layer: int | list[int] | None = None
    tokens: Literal["all", "prompt", "generated"] = "all"
    max_new_tokens: int = 120
    temperature: float = 0.8
    witness: Literal["none", "storyteller"] = "none"
    seed: int = 0


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
    output: str = "lightning_logs/stories",
) -> int:
    """Writes stories from creative and uncreative prompts, steered and by the controls, and has them compared.

    Args:
        data: The files that the direction was fitted with.
        direction: Folder of a saved direction; the newest under lightning_logs by default.
        lm: The model; by default the one that the direction was made with.
        steering: How the steered stories are made.
        ask: The prompt baseline; {prompt} stands for the uncreative prompt.
        adapter: Folder of a LoRA writer that `fit --model LoRAWriter` left, as a further control, at the KL of steering.
        n_prompts: Uncreative prompts, from groups that neither the direction nor a sweep has seen.
        self_judge: Let the model itself compare the stories in words.
        endpoint: An OpenAI-compatible endpoint that compares them; its key comes from the environment.
        concept: What the judges are asked for, an adjective.
        n_judged: Prompts whose stories judges compare, each pair in both orders.
        replies: Where judges' replies are kept; nothing is asked twice.
        ballot: How many blinded pairs to write out for people; `python -m probe votes` reads them back.
        rows: Texts written at once: more is faster until memory ends.
        output: Folder of the runs.
    """
    from lightning.pytorch.loggers import TensorBoardLogger
    from rich.console import Console

    from probe.adapters import attach
    from probe.ballot import write_ballot
    from probe.held_out import held_out, open_direction
    from probe.pairwise import by_number
    from probe.steering import Sampling
    from probe.stories import write_stories
    from probe.stories_report import StoriesReport

    if "{prompt}" not in ask:
        raise ProbeError("--ask: expected {prompt} where the uncreative prompt is to stand, found none; add it.")
    _, found, rows_of, frozen = open_direction(direction, data, lm)
    layers, strength, unit = found.recommended
    if steering.strengths:
        strength, unit = steering.strengths[-1], steering.strength_unit
    if steering.layer is not None:
        layers = [steering.layer] if isinstance(steering.layer, int) else steering.layer
    found.deltas(strength, unit, layers)  # refuses a layer that it does not hold before anything is written
    if adapter:
        frozen.adapter = attach(frozen, Path(adapter))
    how = Sampling(steering.max_new_tokens, steering.temperature, steering.seed, steering.tokens, rows)
    _, ground = held_out(frozen, found, rows_of, how, steering.witness, 0, n_prompts)
    console = Console(width=None if sys.stdout.isatty() else 120)
    asks = _judges(frozen if self_judge else None, endpoint, Path(replies), steering.seed)
    sets = write_stories(
        ground, layers, strength, unit, ask, bool(adapter), steering.seed, console.print, console.is_terminal
    )
    judged = {name: _judge(sets, ask_all, concept, n_judged, name, console) for name, ask_all in asks.items()}
    pairs = sets.comparisons()
    measures = ["score"] if steering.witness == "none" else ["inventive_share", "score"]
    values = {m: {(t.arm, t.prompt): getattr(t, m) for texts in sets.texts.values() for t in texts} for m in measures}
    told = {
        m: by_number([of[c.set_a, c.prompt] for c in pairs], [of[c.set_b, c.prompt] for c in pairs])
        for m, of in values.items()
    }
    report = StoriesReport(TensorBoardLogger(output, name="", default_hp_metric=False), sets, told, judged, n_judged)
    report.folder.mkdir(parents=True, exist_ok=True)
    report.write(console)
    left = "stories.json, stories.csv, texts.jsonl"
    if ballot:
        sheet, key = write_ballot(pairs, report.folder, ballot, steering.seed)
        left += f", {sheet.name} (give copies of it to people), {key.name} (keep it from them)"
    console.print(f"\nEverything is in {report.folder}: {left}.", highlight=False)
    console.print(f"Next: tensorboard --logdir {output}", highlight=False)
    if ballot:
        console.print(f"  or: python -m probe votes ann.csv bo.csv --key {key}", highlight=False)
    return 0


AskAll = Callable[[Sequence[str]], list[str]]


def _judges(lm: "FrozenLM | None", endpoint: Endpoint | None, replies: Path, seed: int) -> dict[str, AskAll]:
    """Judge -> how to ask it; a missing package or folder is found here, before any story is written."""
    asks: dict[str, tuple[Ask, str, int]] = {}
    if lm is not None:
        model = lm

        def ask_itself(question: str) -> str:
            return model.generate([question], JUDGE_TOKENS, 0.0, seed)[0]

        asks["the model itself"] = (ask_itself, lm.fingerprint, 1)
    if endpoint:
        asks[endpoint.model] = (endpoint_ask(endpoint, JUDGE_TOKENS, 0.0, seed), endpoint.model, endpoint.workers)
    if not asks:
        return {}
    replies.parent.mkdir(parents=True, exist_ok=True)
    log = ReplyLog(replies)

    def all_of(ask: Ask, name: str, workers: int) -> AskAll:
        return lambda questions: log.ask_all(questions, ask, f"judge {name} {JUDGE_TOKENS} {seed}", workers)

    return {name: all_of(*how) for name, how in asks.items()}


def _judge(sets: "StorySets", ask_all: AskAll, concept: str, n_judged: int, name: str, console: "Console") -> "Judged":
    from probe.pairwise import by_judge

    pairs = sets.comparisons(n_judged)
    console.print(f"{name} compares {len(pairs)} pairs of stories, in both orders", highlight=False)
    return by_judge(pairs, ask_all, concept)
