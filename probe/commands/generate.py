"""generate: texts steered with a saved direction beside the plain ones."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from probe.errors import ProbeError
from probe.files import write_json_lines
from probe.spec import LMSpec

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from probe.directions import Direction
    from probe.lm import FrozenLM
    from probe.steering import Arm, Sampling

Unit = Literal["gap", "norm", "absolute"]
OF_DIRECTION = LMSpec(model="", dtype="auto")
"""The model and the number type that the direction was made with."""


def run(
    prompts: list[str],
    direction: str | None = None,
    strength: float | list[float] | None = None,
    strength_unit: Unit | None = None,
    layer: int | list[int] | None = None,
    ablate: bool = False,
    tokens: Literal["all", "prompt", "generated"] | None = None,
    lm: LMSpec = OF_DIRECTION,
    max_new_tokens: int = 120,
    temperature: float = 0.8,
    seed: int = 0,
    other_model: bool = False,
    output: str | None = None,
) -> int:
    """Writes a text steered with a saved direction beside the plain one, with the same random numbers.

    Args:
        prompts: What to answer; - reads one prompt a line from the standard input.
        direction: A folder with direction.safetensors; by default the newest under lightning_logs.
        strength: How much of the direction to add, or a list; below 0 takes it away. By default what the direction
            recommends, else 2 class gaps.
        strength_unit: gap (distance of the two classes), norm (share of the residual norm) or absolute; gap by default.
        layer: After which block, or a list of blocks that share the strength out; by default what the direction
            recommends, else its chosen layer.
        ablate: Take the direction out of the residual stream instead, after each of these blocks (all that it has by
            default) and at every token.
        tokens: Which tokens are steered: all, those of the prompt, or those generated; all by default, or as recommended.
        lm: The model; by default the one that the direction was made with.
        max_new_tokens: Length limit of a text.
        temperature: 0 is greedy.
        seed: Of the sampling.
        other_model: Admit a model with other weights than those that the direction was made with.
        output: Where to write the texts as JSONL.
    """
    from rich.console import Console

    asked = _asked(prompts)
    if output and not Path(output).parent.is_dir():
        raise ProbeError(f"--output {output}: expected its folder to be there, found none; make it first.")

    from probe.directions import Direction, newest_direction
    from probe.lm import FrozenLM
    from probe.steering import Sampling

    folder = Path(direction) if direction else newest_direction(Path("lightning_logs"))
    found = Direction.load(folder)
    if ablate and (strength is not None or strength_unit or tokens):
        raise ProbeError(
            "--ablate: expected no strength and no tokens beside it, found some; it takes all out, everywhere."
        )
    where, unit, arms = arms_of(found, layer, strength, strength_unit, ablate)
    how = Sampling(max_new_tokens, temperature, seed, tokens or found.recommended.tokens)
    made = found.provenance
    if not (lm.model or made.get("lm")):
        raise ProbeError(
            f"{folder}: expected the name of its model in direction.json, found none; give --lm.model NAME."
        )
    dtype = made.get("lm_dtype", "auto") if lm.dtype == "auto" else lm.dtype
    lm = replace(lm, model=lm.model or made["lm"], dtype=dtype, system=lm.system or made.get("lm_system"))
    console = Console(width=None if sys.stdout.isatty() else 120)
    done = "taken out of" if ablate else "added to"
    console.print(
        f"Direction {folder} ({made.get('method', 'unknown method')}, from {made.get('lm', 'an unknown model')}), {done} "
        f"{lm.model} after layer{'s' * (len(where) > 1)} {', '.join(map(str, where))}.",
        markup=False,
        highlight=False,
    )
    frozen = FrozenLM.load(lm)
    found.check_fits(frozen.hidden_size, frozen.n_layers, frozen.fingerprint, other_model)
    records: list[dict[str, Any]] = []
    for prompt in asked:
        for arm, text in zip(arms, show(console, frozen, prompt, arms, how), strict=True):
            setting = {"strength": arm.strength, "strength_unit": unit, "layer": where[0] if len(where) == 1 else where}
            records.append({"prompt": prompt, **setting, "ablated": bool(arm.ablated), "text": text, "seed": seed})
    if output:
        write_json_lines(Path(output), records)
    return 0


def arms_of(
    direction: "Direction",
    layer: int | list[int] | None,
    strength: float | list[float] | None,
    unit: Unit | None,
    ablate: bool = False,
) -> tuple[list[int], str, list["Arm"]]:
    """Layers, unit and the arms, the plain one first; what was not asked for is as the direction recommends it."""
    from probe.directions import as_layers
    from probe.steering import Arm

    recommended = direction.recommended
    layers = recommended.layers if layer is None else as_layers(layer)
    if ablate:
        layers = list(direction.layers) if layer is None else layers
        return layers, "ablated", [Arm("plain"), Arm("ablated", ablated={k: direction.at(k) for k in layers})]
    if strength is None and unit:
        raise ProbeError(f"--strength_unit {unit}: expected --strength beside it, found none; say how much.")
    if not layers:
        raise ProbeError(
            f"--layer: expected a chosen layer in this direction, found none; say which of {list(direction.layers)}."
        )
    if strength is None:
        strengths, used = [recommended.strength], recommended.unit
    else:
        strengths, used = strength if isinstance(strength, list) else [strength], unit or "gap"
    arms = [Arm(f"{s:+g} {used}", direction.deltas(s, used, layers), s) for s in dict.fromkeys(strengths) if s]
    return layers, used, [Arm("plain"), *arms]


def show(console: "Console", lm: "FrozenLM", prompt: str, arms: Sequence["Arm"], how: "Sampling") -> list[str]:
    """Writes a text for each arm, all in one batch, and shows them: on a terminal token by token, else when they are whole."""
    from rich.live import Live

    from probe.steering import steered

    def follow(texts: Sequence[str]) -> None:
        live.update(side_by_side(prompt, arms, texts))

    asked = [prompt] * len(arms)
    with Live(console=console) as live, steered(lm, arms, how.tokens):
        each_step = follow if console.is_terminal else None
        texts = lm.generate(asked, how.max_new_tokens, how.temperature, how.seed, each_step)
        follow(texts)
    return texts


def side_by_side(prompt: str, arms: Sequence["Arm"], texts: Sequence[str]) -> "Table":
    """A column for each arm; markup and control characters in a model's text mean nothing here."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    def shown(text: str) -> Text:
        return Text("".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text))

    table = Table(box=SIMPLE_HEAD, title=shown(prompt), title_justify="left", expand=True)
    for arm in arms:
        table.add_column(arm.name, ratio=1, overflow="fold")
    table.add_row(*(shown(text) for text in texts))
    return table


def _asked(prompts: Sequence[str]) -> list[str]:
    asked: list[str] = []
    for prompt in prompts:
        asked += [line.strip() for line in sys.stdin if line.strip()] if prompt == "-" else [prompt]
    if not asked or not all(prompt.strip() for prompt in asked):
        raise ProbeError("expected a prompt, found an empty one or none; say what is to be written.")
    return asked
