"""doctor: whether a model can be read and steered here, what is read of it, how fast, and how much room that takes."""

import json
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.files import atomic_write, try_file
from probe.lm.spec import LMSpec
from probe.options.types import FilePath, PositiveInt

if TYPE_CHECKING:
    from probe.lm.frozen import FrozenLM

SAMPLE = "Write a story about a town where the clocks stopped, and say what became of the people who lived by them."
TIMED = 32
"""Different texts that are read to say how fast."""
UNFIT = 3
"""Exit code where something that is needed does not hold."""


def run(lm: LMSpec, n_texts: PositiveInt = 1000, output: FilePath | None = None) -> int:
    """Asks a model all that can be asked of it; exits with 0 where it can be read and steered, else with 3.

    Args:
        lm: The model.
        n_texts: For how many texts, as long as the sample, time and room are estimated.
        output: Where to write the findings as JSON.
    """
    from rich.text import Text

    from probe.lm.checks import outcome
    from probe.lm.diagnosis import DIAGNOSIS
    from probe.lm.frozen import FrozenLM
    from probe.lm.loading import load
    from probe.progress import waiting
    from probe.show import figures_table
    from probe.shown.terminal import Terminal

    if output:
        try_file(output, "--output")
    console = Terminal()
    with waiting(f"Loading {lm.model} ..."):
        model, tokenizer = load(lm)
    own_config = model.generation_config
    frozen = FrozenLM(model, tokenizer, lm)
    outcomes: dict[str, dict[str, Any]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a check meets on its way is its answer's business
        for check in DIAGNOSIS:
            problem = outcome(check, frozen)
            outcomes[check.name] = {"holds": problem is None, "needed": check.needed, "found": problem or ""}
    fit = all(one["holds"] for one in outcomes.values() if one["needed"])
    facts = _facts(frozen, own_config) | (_costs(frozen, n_texts) if fit else {})
    mark = {(True, True): ("yes", "green"), (True, False): ("yes", "green"), (False, False): ("no: slower", "yellow")}
    rows: list[list[Text | str]] = []
    for name, one in outcomes.items():
        word, colour = mark.get((one["holds"], one["needed"]), ("NO", "red"))
        rows.append([Text(f"{name}{': ' if one['found'] else ''}{one['found']}"), Text(word, colour)])
    console.print(figures_table(f"{lm.model}: what holds of it", ["", "holds"], rows))
    told: list[list[Text | str]] = [[Text(name), Text(str(value))] for name, value in facts.items()]
    console.print("", figures_table("What it is, and what reading it costs", ["", ""], told), sep="\n")
    for note in frozen.encoder.template.notes():
        console.print(note)
    console.print(
        "It can be read and steered here."
        if fit
        else "It can NOT be used here: what is marked NO is needed; choose another causal LM."
    )
    if output:
        report = json.dumps({"model": lm.model, "fit": fit, "checks": outcomes, "facts": facts}, indent=2)
        atomic_write(Path(output), lambda path: path.write_text(report + "\n", encoding="utf-8"))
    return 0 if fit else UNFIT


def _facts(lm: "FrozenLM", own_config: Any) -> dict[str, Any]:
    """What it is, and what is read of a text."""
    from probe.data.reading import Passage
    from probe.lm.diagnosis import overridden

    (encoded,) = lm.encoder.encode([Passage(SAMPLE, at_reply=True)])
    before = lm.tokenizer.decode(list(encoded.ids)[-12:])
    ignored = overridden(own_config)
    n_weights, dtype = sum(p.numel() for p in lm.model.parameters()), str(lm.model.dtype).removeprefix("torch.")
    return {
        "architecture": f"{lm.model.config.model_type}, {lm.n_layers} blocks of width {lm.hidden_size}",
        "weights": f"{n_weights:,} of {dtype} on {lm.device}",
        "longest text": f"{lm.max_tokens:,} tokens",
        "chat template": "its own" if lm.encoder.template.source else "none: an instruction and two line breaks",
        "a reply begins behind": repr(before),
        "not taken from its generation config": ", ".join(f"{k}={v}" for k, v in ignored.items()) or "nothing",
    }


def _costs(lm: "FrozenLM", n_texts: int) -> dict[str, Any]:
    """Speed of reading, all layers and poolings, and what so many texts would take."""
    from probe.activations.extractor import ActivationExtractor
    from probe.activations.pooling import POOLINGS
    from probe.data.reading import Passage

    passages = [Passage(f"{number}. {SAMPLE}") for number in range(TIMED)]
    extractor = ActivationExtractor(lm)
    extractor(passages[:2])
    n_tokens = sum(len(encoded.ids) for encoded in lm.encoder.encode(passages))
    started = time.perf_counter()
    extractor(passages)
    speed = n_tokens / (time.perf_counter() - started)
    megabytes = n_texts * len(POOLINGS) * lm.n_layers * lm.hidden_size * 4 / 1e6
    seconds, each = n_texts * n_tokens / TIMED / speed, n_tokens // TIMED
    return {
        "reads": f"{speed:,.0f} tokens a second",
        f"{n_texts:,} texts of {each} tokens": f"about {seconds:,.0f} s once, {megabytes:,.0f} MB on disk",
    }
