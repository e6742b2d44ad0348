"""The chat template: a program that comes with a model, so it is tried within bounds, and what it renders is looked at."""

import inspect
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from probe.errors import ProbeError
from probe.lm.spec import LMSpec

SECONDS, MEMORY, LENGTH = 10.0, 2**30, 10**6
"""What rendering one instruction may take: time, bytes beyond those in use, and characters."""
INSTRUCTION, SYSTEM = "\ue000", "\ue001"
"""Stand for the texts: private characters, which no template writes itself."""

Turn = tuple[str, str]
"""Of a conversation: who speaks (system, user or assistant), and what."""


@dataclass(frozen=True)
class ChatTemplate:
    """How an instruction is put to one model; a base model has no template and reads the bare text.

    Args:
        tokenizer: Holds the template, or several by name.
        spec: The system message and the template's arguments.
        in_parts: The template takes a content as a list of parts.
        folded: The system message stands at the head of the instruction, as Gemma's authors have it.
    """

    tokenizer: PreTrainedTokenizerBase
    spec: LMSpec
    in_parts: bool = False
    folded: bool = False

    @property
    def source(self) -> str | None:
        """The Jinja program.

        Raises:
            ProbeError: where there are several, of which none is the default and none was chosen.
        """
        template, name = self.tokenizer.chat_template, self.spec.chat_template_kwargs.get("chat_template")
        if not isinstance(template, dict):
            return template or None
        name = name or ("default" if len(template) > 1 else next(iter(template)))
        if name not in template:
            raise self._refusal(
                f"expected the name of one of its chat templates ({', '.join(sorted(template))}), found {name!r}; choose with "
                "--lm.chat_template_kwargs '{\"chat_template\": NAME}'"
            )
        return str(template[name])

    def render(self, instruction: str) -> str:
        """The text before the reply."""
        return self.conversation([("user", instruction)])

    def conversation(self, turns: Sequence[Turn]) -> str:
        """The text before the reply to some turns; a system message at their head stands in place of the spec's.

        Raises:
            ProbeError: for turns that the template does not take.
        """
        (role, text), *rest = turns
        if role != "system":
            return self._render(turns, self.spec.system)
        return ChatTemplate(self.tokenizer, replace(self.spec, system=text)).fitted()._render(rest, text)

    def _render(self, turns: Sequence[Turn], system: str | None) -> str:
        if system and (self.folded or not self.source):
            (role, text), *rest = turns
            turns, system = [(role, f"{system}\n\n{text}"), *rest], None
        if not self.source and len(turns) > 1:
            raise ProbeError(
                f"{self.spec.model}: expected one instruction, since it has no chat template, found {len(turns)} turns; ask it "
                "one thing, or take an instruct model."
            )
        if not self.source:
            return f"{turns[0][1]}\n\n"
        turns = [("system", system), *turns] if system else turns
        messages: list[dict[str, Any]] = [
            {"role": role, "content": [{"type": "text", "text": text}] if self.in_parts else text}
            for role, text in turns
        ]
        options: dict[str, Any] = {**self.spec.chat_template_kwargs, "chat_template": self.source}
        try:
            rendered = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **options
            )
        except MemoryError:
            raise
        except Exception as error:  # a program of other people: whatever it may raise, it is the template that failed
            reason = " ".join(str(error).split())[:160] or type(error).__name__
            raise self._refusal(f"its chat template fails ({reason}); mend it in the model's folder") from error
        return str(rendered)

    def fitted(self) -> "ChatTemplate":
        """The same template, used in the first way in which it renders all that it is given.

        Raises:
            ProbeError: where there is none, or an argument that the template does not know was given.
        """
        taken = {*inspect.signature(self.tokenizer.apply_chat_template).parameters, "messages"}
        known = {*re.findall(r"\w+", self.source or "")} - taken
        if isinstance(self.tokenizer.chat_template, dict):
            known.add("chat_template")
        if unknown := [name for name in self.spec.chat_template_kwargs if name not in known]:
            raise ProbeError(
                f"--lm.chat_template_kwargs: expected variables of the chat template of {self.spec.model}, found "
                f"{unknown[0]!r}, which is none; correct or remove it."
            )
        system = SYSTEM if self.spec.system else None
        first: ProbeError | None = None
        for folded in (False, True) if system else (False,):
            for in_parts in (False, True):
                way = ChatTemplate(self.tokenizer, self.spec, in_parts, folded)
                try:
                    rendered = way._render([("user", INSTRUCTION)], system)
                except ProbeError as error:
                    first = first or error
                    continue
                if rendered.count(INSTRUCTION) == 1 and (system is None or system in rendered):
                    return way
        raise first or self._refusal("its chat template leaves the instruction out; mend it in the model's folder")

    def notes(self) -> list[str]:
        """What a person should know of how this template is used."""
        said, behind = [], self.render(INSTRUCTION).partition(INSTRUCTION)[2]
        if self.spec.system and (self.folded or not self.source):
            said.append("has no place for a system message; yours stands at the head of every instruction")
        source, told = self.source or "", self.spec.chat_template_kwargs
        if "strftime_now" in source and "date_string" not in told:
            hint = ' (--lm.chat_template_kwargs \'{"date_string": "26 Jul 2024"}\' fixes it)' * (
                "date_string" in source
            )
            said.append(f"writes today's date, so that another day reads other tokens{hint}")
        switch = "enable_thinking" in source and "enable_thinking" not in told
        thinks = behind.rstrip().endswith("<think>")
        if thinks or switch:
            place = "behind <think>, in the model's thoughts" if thinks else "where the model may begin to think"
            hint = " (--lm.chat_template_kwargs '{\"enable_thinking\": false}' switches it off)" if switch else ""
            said.append(f"ends {place}{hint}: a reply is read and written behind {behind[-40:]!r}")
        return [f"--lm.model {self.spec.model}: its chat template {note}." for note in said]

    def try_out(self) -> None:
        """Renders an instruction in another process, which can be stopped.

        Raises:
            ProbeError: where that takes too long, or too much memory, or gives too much text.
        """
        if not self.source:
            return
        # A fork costs a hundredth of a second, a fresh interpreter two; the child runs Jinja alone.
        processes: Any = get_context("fork" if "fork" in get_all_start_methods() else "spawn")
        child = processes.Process(target=_within_bounds, args=(self,), daemon=True)
        child.start()
        child.join(SECONDS)
        child.kill()
        child.join()
        if child.exitcode != 0:
            raise self._refusal("its chat template does not come to an end, or to too much text; mend it in its folder")

    def _refusal(self, what: str) -> ProbeError:
        return ProbeError(f"--lm.model {self.spec.model}: {what}, or take another model.")


def _within_bounds(template: ChatTemplate) -> None:
    if sys.platform == "linux":
        import resource

        in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (in_use + MEMORY, in_use + MEMORY))
    try:
        rendered = template.fitted().render(INSTRUCTION)
    except ProbeError:
        sys.exit(0)  # met again, and told, where it can be caught
    except MemoryError:
        sys.exit(1)
    sys.exit(len(rendered) > LENGTH)
