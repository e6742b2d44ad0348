"""export: a direction for other programs; each file that is written is read back before it is called done."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.errors import ProbeError, did_you_mean
from probe.files import try_folder
from probe.lm.operators import heeds_strength, operator_called
from probe.logs import direction_folder
from probe.options.types import FilePath, Finite
from probe.steering.settings import Steering

if TYPE_CHECKING:
    from torch import Tensor

    from probe.directions.direction import Direction
    from probe.lm.frozen import FrozenLM


@dataclass(frozen=True)
class Exported:
    """What there is to export."""

    direction: "Direction"
    vectors: "Mapping[int, Tensor]"
    """`[D]` by block: what is added, at scale 1."""
    lm: "FrozenLM"
    folder: Path
    """Of the direction."""


def _llama_cpp(what: Exported, output: Path) -> str:
    if 0 in what.vectors:
        raise ProbeError(
            "--to llama.cpp: expected blocks from 1 on, found block 0, for which llama.cpp has no place; steer another."
        )
    if ":" in str(output):
        raise ProbeError(
            f"--output {output}: expected a path without a colon, which llama.cpp takes for a scale; rename it."
        )
    first, last = min(what.vectors), max(what.vectors)
    _control_vector(what, output)
    return f"llama-cli --control-vector-scaled {output}:1.0 --control-vector-layer-range {first} {last}"


def _control_vector(what: Exported, output: Path) -> str:
    from probe.directions.control_vector import write_control_vector

    write_control_vector(what.vectors, str(what.lm.model.config.model_type), output)
    return f"EasySteer: SteerVectorRequest with path {output}, scale 1.0, target layers {sorted(what.vectors)}"


def _baked(what: Exported, output: Path) -> str:
    from probe.directions.baked import bake

    off = bake(what.lm, what.vectors, output)
    return f"transformers, vLLM and others load {output} as any model; its logits are the hooked model's to {off:.1g}"


def _hub(what: Exported, output: Path) -> str:
    from probe.directions.hub_card import write_for_hub

    blocks = next(name for name, module in what.lm.model.named_modules() if module is what.lm.blocks)
    write_for_hub(what.direction, what.vectors, blocks, what.folder.parent, output)
    return f"read {output}/README.md; probe generate --direction {output}; hf upload NAME {output}"


EXPORTS: dict[str, Callable[[Exported, Path], str]] = {
    "llama.cpp": _llama_cpp,
    "easysteer": _control_vector,
    "baked": _baked,
    "hub": _hub,
}
"""Target -> what writes a file or folder for it, and says how it is used."""


def run(
    to: str,
    output: FilePath,
    direction: FilePath | None = None,
    run: str | None = None,
    strength: Finite | None = None,
    **said: Any,
) -> int:
    """Writes a direction for another program, at the strength that is asked for or recommended, and checks what it wrote.

    Args:
        to: For whom: llama.cpp or easysteer (a GGUF control vector), baked (the model, with the direction in its weights), or
            hub (safetensors with a model card).
        output: The file, for a control vector, or else the folder.
        direction: Folder of a saved direction, or of its run; the newest under lightning_logs by default.
        run: Which run's direction, in place of its folder: newest, or a name such as probe/version_3.
        strength: How much of the direction scale 1 is to be; by default what was recommended.
        said: `layer`, `strength_unit` and the rest of `Steering`, each by its name.
    """
    if to not in EXPORTS:
        raise ProbeError(f"--to {to}: expected one of {', '.join(EXPORTS)}{did_you_mean(to, list(EXPORTS)) or '.'}")
    path = Path(output).expanduser()
    if path.exists():
        raise ProbeError(f"--output {output}: expected nothing there, found a file or folder; name another.")
    try_folder(path.parent, "--output")
    steering = Steering(**said)

    from probe.directions.direction import Direction
    from probe.lm.frozen import FrozenLM
    from probe.lm.spec import LMSpec
    from probe.shown.terminal import Terminal
    from probe.steering.asked import asked_for
    from probe.steering.dose import PROMPTS, with_dose

    folder = direction_folder(direction, run)
    opened = Direction.load(folder)
    how, _ = asked_for(opened, steering, None if strength is None else [strength])
    if how.operator != "plus" or not heeds_strength(operator_called(how.operator)) or how.tokens != "all":
        raise ProbeError(
            f"--to {to}: expected steering that adds the direction at all tokens, found `{how.operator}` at {how.tokens}; other "
            "programs can do that alone: --operator plus --tokens all."
        )
    made = opened.provenance
    if not made.get("lm"):
        raise ProbeError(f"{folder}: expected the name of its model in direction.json, found none; fit it anew.")
    told = {"system": made.get("lm_system"), "chat_template_kwargs": made.get("lm_chat_template_kwargs", {})}
    lm = FrozenLM.load(LMSpec(made["lm"], made.get("lm_dtype", "auto"), **told))
    opened.check_fits(lm.hidden_size, lm.n_layers, lm.fingerprint)
    if how.unit == "dose":
        opened = with_dose(lm, opened, how.layers, PROMPTS, steering)
    vectors = opened.deltas(how.strength, how.unit, how.layers)
    path.parent.mkdir(parents=True, exist_ok=True)
    use = EXPORTS[to](Exported(opened, vectors, lm, folder), path)
    at = ", ".join(map(str, how.layers))
    console = Terminal()
    console.print(
        f"{path}: {how.strength:g} {how.unit} of the direction of {folder}, after block {at}, read back and found the same."
    )
    console.print(f"Next: {use}", soft_wrap=True)
    return 0
