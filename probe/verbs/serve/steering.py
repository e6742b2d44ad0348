"""How a request is steered: by which run's direction, where and how strongly; requests that differ in it share a batch."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from probe.directions.card import check_card
from probe.directions.direction import Direction
from probe.errors import ProbeError, did_you_mean
from probe.files import from_json
from probe.lm.frozen import FrozenLM
from probe.lm.open_batch import Line
from probe.lm.operators import OPERATORS, heeds_strength, operator_called
from probe.lm.spec import Tokens
from probe.logs import DIRECTION, LOGS, newest_first
from probe.runs.run import Run
from probe.steering.arms import Arm, steered
from probe.steering.asked import asked_for
from probe.steering.dose import PROMPTS, with_dose
from probe.steering.settings import Sampling, Steering
from probe.verbs.serve.asked import Writing
from probe.verbs.serve.refusals import Refusal

PLAIN = Arm("plain")


@dataclass(frozen=True)
class How:
    """What is done to the model for one request."""

    arm: Arm = PLAIN
    tokens: Tokens = "all"
    told: dict[str, Any] = field(default_factory=dict)
    """The same in words, for the reply and the log."""


def within(lm: FrozenLM, lines: Sequence[Line], part: Tokens) -> AbstractContextManager[None]:
    """Steers each line of a batch as its request says, in passes over prompts, over what is generated, or over both."""
    if part == "all":  # such a line is alone
        return steered(lm, [lines[0].how.arm], lines[0].how.tokens)
    return steered(lm, [line.how.arm if line.how.tokens in ("all", part) else PLAIN for line in lines], "all")


class Directions:
    """The directions that were found in the served model.

    Args:
        run: Whose direction is meant where a request names none.
        said: How to steer where a request does not say.
        strength: How strongly; by default as a direction recommends, else one dose.
    """

    def __init__(self, run: Run, said: Steering, strength: float | None) -> None:
        self.lm, self.said, self.strength = run.lm, said, strength
        here, logs = run.folder.absolute(), LOGS.absolute()
        self.served = here.relative_to(logs).as_posix() if here.is_relative_to(logs) else "/".join(here.parts[-2:])
        self._known = {self.served: run.direction}
        run.direction.check_fits(self.lm.hidden_size, self.lm.n_layers, self.lm.fingerprint)

    def layers(self) -> dict[str, list[int]]:
        """Run -> layers of its direction, for those that were found in this very model: the served one, then the newest."""
        return {self.served: list(self._known[self.served].layers)} | {
            name: layers for name, (_, layers) in self._found().items() if name != self.served
        }

    def _found(self) -> dict[str, tuple[Path, list[int]]]:
        found = {}
        for file in newest_first(LOGS, DIRECTION):
            try:
                card = from_json(file.read_text(encoding="utf-8"))
                check_card(card)
            except (OSError, ValueError, KeyError, TypeError):  # it is just being written, or damaged
                continue
            if card["provenance"].get("lm_fingerprint") == self.lm.fingerprint:
                found[file.parents[1].relative_to(LOGS).as_posix()] = file.parent, card["layers"]
        return found

    def called(self, name: str) -> Direction:
        """The direction of a run; names are looked up, never taken for a path.

        Raises:
            Refusal: where there is none.
        """
        if name not in self._known:
            found = self._found()
            if name not in found:
                hint = did_you_mean(name, [self.served, *found]) or "; /v1/models lists them."
                raise Refusal(
                    404,
                    f"direction: expected a run with a direction of this model, found {name!r}{hint}",
                    "direction_not_found",
                    "direction",
                )
            self._known[name] = Direction.load(found[name][0])
        return self._known[name]

    def asked(self, body: Writing) -> How:
        """What a request asks for; a dose that is not known yet is measured, which takes a while.

        Raises:
            ProbeError: for what the direction cannot do.
            Refusal: for a direction or an operator that is none.
        """
        if body.operator is not None and body.operator not in {*OPERATORS, self.said.operator}:
            hint = did_you_mean(body.operator, OPERATORS) or "; choose one of those."
            raise Refusal(
                400,
                f"operator: expected one of {', '.join(OPERATORS)}, found {body.operator!r}{hint}",
                param="operator",
            )
        name = body.direction or self.served
        direction = self.called(name)
        if body.strength == 0:
            return How(told={"strength": 0.0})
        given = {key: getattr(body, key) for key in ("layer", "operator", "strength_unit")}
        said = replace(self.said, **{key: value for key, value in given.items() if value is not None})
        strength = self.strength if body.strength is None else body.strength
        how, _ = asked_for(direction, said, None if strength is None else [strength])
        heeds = heeds_strength(operator_called(how.operator))
        if body.operator and body.strength is not None and not heeds:
            raise ProbeError(f"operator {how.operator}: expected no strength beside it, found one; it heeds none.")
        if not how.strength:
            return How(told={"strength": 0.0})
        if how.unit == "dose":
            direction = self._known[name] = with_dose(self.lm, direction, how.layers, PROMPTS, Sampling())
        arm = Arm(name, direction.deltas(how.strength, how.unit, how.layers), how.strength, how.operator)
        told: dict[str, Any] = {"direction": name, "operator": how.operator}
        told["layer"] = how.layers[0] if len(how.layers) == 1 else how.layers
        if heeds:
            told |= {"strength": how.strength, "strength_unit": how.unit}
        return How(arm, how.tokens, told)
