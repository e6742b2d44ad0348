"""try: any two words become a direction, and three texts show what turning it up does; no file, no config, a minute."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.errors import ProbeError
from probe.files import new_version, shipped, try_folder, write_json
from probe.lm.sources import REAL
from probe.lm.spec import LMSpec
from probe.options.types import FilePath, NonNegativeFloat, PositiveInt, Seed

if TYPE_CHECKING:
    from probe.directions.direction import Direction
    from probe.lm.frozen import FrozenLM
    from probe.shown.terminal import Terminal
    from probe.steering.measuring import SteeredText
    from probe.steering.settings import Sampling

OF_TRIAL = LMSpec(REAL)
TASKS = "data/tasks/neutral.txt"
HELD_OUT = 5
"""Every fifth task is held out."""
LADDER = (0.5, 1.0)
"""In doses, beside the plain text."""


@dataclass(frozen=True)
class Trial:
    """What two words were found to be in a model."""

    direction: "Direction"
    accuracy: Mapping[int, float]
    """Layer -> share of held-out tasks whose two sides it tells apart."""
    n_held_out: int
    scores: Sequence[float]
    """Of the instructions that it learned from, at the chosen layer: what the score of another one is set beside."""

    @property
    def layer(self) -> int:
        """The block that is read and steered."""
        assert self.direction.chosen is not None
        return self.direction.chosen


def run(
    plus: str,
    minus: str,
    prompt: str = "Write a story about a town.",
    lm: LMSpec = OF_TRIAL,
    max_new_tokens: PositiveInt = 70,
    temperature: NonNegativeFloat = 0.7,
    seed: Seed = 0,
    output: FilePath = "lightning_logs",
) -> int:
    """Finds the direction from one word to another in a model, and shows three texts on the way.

    Sixty neutral tasks are asked for in both ways ("Make your answer formal.", "... sloppy.") and read where the reply begins.
    The direction is the mean difference, at the block that tells held-out tasks apart (of equals the middle one). It is added
    in doses that the model bears: a dose is the length that costs a stated KL from the clean model.

    Args:
        plus: What you want more of: a word or a short description, such as "formal".
        minus: What you want less of, such as "sloppy".
        prompt: What the three texts answer.
        lm: The model; an instruct model.
        max_new_tokens: Length limit of a text.
        temperature: Sampling temperature; 0 is greedy.
        seed: Of the sampling.
        output: Folder of the runs.
    """
    from probe.shown.terminal import Terminal

    for name, words in (("plus", plus), ("minus", minus), ("prompt", prompt)):
        if not words.strip():
            raise ProbeError(f"--{name}: expected a word or a short description, found none; try --plus formal.")
    if plus.strip().casefold() == minus.strip().casefold():
        raise ProbeError(f"--minus: expected another word than --plus {plus!r}, found the same; name its opposite.")
    tasks = shipped(TASKS).read_text(encoding="utf-8").split("\n")
    tasks = [task for task in tasks if task]
    console = Terminal()
    console.print(
        f'Looking for "{plus}" against "{minus}" in {lm.model}: {2 * len(tasks)} prompts to read, then '
        f"{1 + len(LADDER)} texts to write; about a minute on two CPU cores.",
    )

    from probe.lm.frozen import FrozenLM
    from probe.runs.calibration import Calibration
    from probe.steering.settings import Sampling

    runs = try_folder(output, "--output") / "try"
    frozen = FrozenLM.load(lm)
    trial = find(frozen, plus, minus, tasks)
    how = Sampling(max_new_tokens, temperature, seed)
    direction, texts = show(frozen, trial, prompt, tasks, how)
    folder = new_version(runs)
    direction.save(folder / "direction")
    Calibration(trial.scores, "reply").save(folder)
    write_json(folder / "try.json", _report(plus, minus, trial, direction, texts))
    _print(console, plus, minus, trial, texts, folder)
    return 0


def find(lm: "FrozenLM", plus: str, minus: str, tasks: Sequence[str]) -> Trial:
    """The mean difference of the tasks asked for in both ways, read where the reply begins, in the middle half of the blocks."""
    import torch

    from probe.activations.extractor import ActivationExtractor
    from probe.data.reading import Passage
    from probe.directions.direction import Direction, cosine_scores, mean_difference

    layers = range(lm.n_layers // 4, max(3 * lm.n_layers // 4, lm.n_layers // 4 + 1))
    asked = [Passage(f"{task} Make your answer {word}.", at_reply=True) for word in (minus, plus) for task in tasks]
    read = ActivationExtractor(lm, layers)(asked, progress=True)
    h, unit = (
        x.view(2, len(tasks), *x.shape[1:]) for x in (read.pooled("last"), read.pooled("unit_mean"))
    )  # [2, N, L, D]
    held_out = torch.arange(len(tasks)) % HELD_OUT == 0
    vectors, gaps = mean_difference(h[:, ~held_out].mean(1))
    scores = torch.stack([cosine_scores(side, vectors) for side in unit])  # [2, N, L]
    right = (scores[1] > scores[0])[held_out].float().mean(0)
    middle = (lm.n_layers - 1) / 2
    chosen = max(zip(right.tolist(), layers, strict=True), key=lambda found: (found[0], -abs(found[1] - middle)))[1]
    means = scores[:, ~held_out].mean(1)
    made = {
        "method": "mean difference",
        "span": "reply",
        "pooling": "last",
        "concept": plus,
        "against": minus,
        "lm": lm.spec.model,
        "lm_dtype": str(lm.model.dtype).removeprefix("torch."),
        "lm_system": lm.spec.system,
        "lm_chat_template_kwargs": lm.spec.chat_template_kwargs,
        "lm_fingerprint": lm.fingerprint,
        "template_hash": lm.encoder.template_hash,
        "n_pairs": int((~held_out).sum()),
    }
    direction = Direction(
        vectors, read.layers, gaps, h.norm(dim=-1).mean((0, 1)), means.mean(0), means[1] - means[0], chosen, made
    )
    learned = scores[:, ~held_out, read.layers.index(chosen)].flatten().sort().values
    return Trial(direction, dict(zip(read.layers, right.tolist(), strict=True)), int(held_out.sum()), learned.tolist())


def show(
    lm: "FrozenLM", trial: Trial, prompt: str, tasks: Sequence[str], how: "Sampling"
) -> tuple["Direction", list["SteeredText"]]:
    """The direction with its dose, and texts at the ladder's strengths, measured on the clean model."""
    from probe.steering.arms import Arm, written
    from probe.steering.dose import CALIBRATED_ON, with_dose
    from probe.steering.measuring import Readers, measure

    layer = trial.layer
    direction = with_dose(lm, trial.direction, [layer], tasks[::HELD_OUT][:CALIBRATED_ON], how)
    ladder = [Arm("plain")] + [Arm(f"{x:g} dose", direction.deltas(x, "dose", [layer]), x) for x in LADDER]
    asked = [(prompt, arm) for arm in ladder]
    two = written(lm, asked, how, progress=True)
    return direction, measure(lm, asked, two, how, Readers(layer, direction.at(layer)))


def _report(
    plus: str, minus: str, trial: Trial, direction: "Direction", texts: Sequence["SteeredText"]
) -> dict[str, Any]:
    return {
        "plus": plus,
        "minus": minus,
        "layer": trial.layer,
        "held_out_tasks": trial.n_held_out,
        "held_out_accuracy": {str(k): value for k, value in trial.accuracy.items()},
        "dose": direction.provenance["dose"],
        "texts": [text.record() for text in texts],
    }


def _print(
    console: "Terminal", plus: str, minus: str, trial: Trial, texts: Sequence["SteeredText"], folder: Path
) -> None:
    from probe.show import side_by_side
    from probe.steering.dose import SAFE_KL

    names = [f"{text.arm}, extra NLL {text.extra_nll:+.2f}" if text.strength else "plain" for text in texts]
    console.print(side_by_side(texts[0].prompt, names, [text.text for text in texts]))
    right = round(trial.accuracy[trial.layer] * trial.n_held_out)
    console.print(
        f'Layer {trial.layer} tells "{plus}" from "{minus}" in {right} of {trial.n_held_out} tasks that it did not learn from. '
        f"One dose costs {SAFE_KL:g} nats a token (KL from the unsteered model). That the model can tell the two instructions "
        "apart says little; whether the texts moved is for you to see, and one prompt is no measurement.",
    )
    console.print(f"Everything is in {folder}.")
    console.print(f'Next: probe generate "Your own prompt" --run {folder} --strength 1', soft_wrap=True)
