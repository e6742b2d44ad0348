"""generate: texts steered with a saved direction beside the plain ones."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.data.texts import readable, stdin_lines
from probe.errors import ProbeError
from probe.files import try_file, write_json_lines
from probe.lm.operators import heeds_strength, operator_called
from probe.lm.spec import LMSpec
from probe.logs import direction_folder
from probe.options.types import FilePath, Finite
from probe.steering.settings import Steering

if TYPE_CHECKING:
    from probe.directions.direction import Direction, Recommended
    from probe.lm.frozen import FrozenLM
    from probe.shown.terminal import Terminal
    from probe.steering.arms import Arm
    from probe.steering.settings import Sampling

OF_DIRECTION = LMSpec(model="", dtype="auto")
"""The model and the number type that the direction was made with."""


def run(
    prompts: list[str],
    direction: FilePath | None = None,
    run: str | None = None,
    strength: Finite | list[Finite] | None = None,
    ablate: bool = False,
    lm: LMSpec = OF_DIRECTION,
    other_model: bool = False,
    output: FilePath | None = None,
    **writing: Any,
) -> int:
    """Writes a text steered with a saved direction beside the plain one, with the same random numbers.

    Args:
        prompts: What to answer; - reads one prompt a line from the standard input.
        direction: Folder of a saved direction, or of its run; the newest under lightning_logs by default.
        run: Which run's direction, in place of its folder: newest, or a name such as probe/version_3.
        strength: How much of the direction, or a list; below 0 takes it away. By default what a sweep recommends, else one
            dose.
        ablate: Short for --operator without, which acts after every block that the direction has where none is named.
        lm: The model; by default the one that the direction was made with.
        other_model: Admit a model with other weights than those that the direction was made with.
        output: Where to write the texts as JSONL.
        writing: The settings of `Steering`, each by its name.
    """
    said = Steering(**writing)
    said = replace(said, operator="without") if ablate else said
    if (
        said.operator
        and not heeds_strength(operator_called(said.operator))
        and (strength is not None or said.strength_unit)
    ):
        raise ProbeError(
            f"--operator {said.operator}: expected no strength beside it, found one; this operator heeds none, leave it out."
        )
    asked = _asked(prompts)
    if output:
        try_file(output, "--output")

    from probe.directions.direction import Direction
    from probe.lm.frozen import FrozenLM
    from probe.shown.terminal import Terminal
    from probe.steering.asked import asked_for
    from probe.steering.dose import CALIBRATED_ON, in_words, with_dose

    folder = direction_folder(direction, run)
    opened = Direction.load(folder)
    how, strengths = asked_for(opened, said, strength if isinstance(strength, list | None) else [strength])
    said = replace(said, tokens=how.tokens)
    made = opened.provenance
    if not (lm.model or made.get("lm")):
        raise ProbeError(
            f"{folder}: expected the name of its model in direction.json, found none; give --lm.model NAME."
        )
    dtype = made.get("lm_dtype", "auto") if lm.dtype == "auto" else lm.dtype
    lm = replace(
        lm,
        model=lm.model or made["lm"],
        dtype=dtype,
        system=lm.system or made.get("lm_system"),
        chat_template_kwargs=lm.chat_template_kwargs or made.get("lm_chat_template_kwargs", {}),
    )
    console = Terminal()
    console.print(
        f"Direction {folder} ({made.get('method', 'unknown method')}, from {made.get('lm', 'an unknown model')}), used on "
        f"{lm.model} by `{how.operator}` after layer{'s' * (len(how.layers) > 1)} {', '.join(map(str, how.layers))}.",
    )
    frozen = FrozenLM.load(lm)
    opened.check_fits(frozen.hidden_size, frozen.n_layers, frozen.fingerprint, other_model)
    if how.unit == "dose" and any(strengths):
        opened = with_dose(frozen, opened, how.layers, asked[:CALIBRATED_ON], said)
        console.print(in_words(opened, how.layers))
    arms = arms_of(opened, how, strengths)
    records: list[dict[str, Any]] = []
    for prompt in asked:
        for arm, text in zip(arms, show(console, frozen, prompt, arms, said), strict=True):
            setting = {"strength": arm.strength, "strength_unit": how.unit, "operator": arm.operator}
            setting["layer"] = how.layers[0] if len(how.layers) == 1 else how.layers
            records.append({"prompt": prompt, "arm": arm.name, **setting, "text": text, "seed": said.seed})
        if output:  # after each prompt: whatever ends the run, what was written is kept
            write_json_lines(Path(output), records)
    return 0


def arms_of(direction: "Direction", how: "Recommended", strengths: Sequence[float]) -> list["Arm"]:
    """The arms, the plain one first."""
    from probe.steering.arms import Arm

    heeds, by = heeds_strength(operator_called(how.operator)), "" if how.operator == "plus" else f" {how.operator}"
    names = {s: f"{s:+g} {how.unit}{by}" if heeds else how.operator for s in strengths if s}
    return [Arm("plain")] + [
        Arm(name, direction.deltas(s, how.unit, how.layers), s, how.operator) for s, name in names.items()
    ]


def show(console: "Terminal", lm: "FrozenLM", prompt: str, arms: Sequence["Arm"], how: "Sampling") -> list[str]:
    """Writes a text for each arm, all in one batch, and shows them: on a terminal token by token, else when they are whole."""
    from rich.live import Live

    from probe.show import side_by_side
    from probe.steering.arms import steering

    def follow(texts: Sequence[str]) -> None:
        live.update(side_by_side(prompt, [arm.name for arm in arms], texts))

    asked = [prompt] * len(arms)
    with Live(console=console) as live:
        each_step = follow if console.is_terminal else None
        within = steering(lm, arms, how.tokens)
        answers = lm.write(asked, how.max_new_tokens, how.temperature, how.seed, each_step, within)
        texts = [written.text for written in answers]
        follow(texts)
    return texts


def _asked(prompts: Sequence[str]) -> list[str]:
    asked: list[str] = []
    for prompt in prompts:
        asked += stdin_lines() if prompt == "-" else [readable(prompt, "the prompt")]
    if not asked or not all(prompt.strip() for prompt in asked):
        raise ProbeError("expected a prompt, found an empty one or none; say what is to be written.")
    return asked
