"""What to say when a person, or a cluster, stops a verb: how to go on, and that nothing finished is lost."""

import shlex
import sys
from collections.abc import Sequence

RESUMES = {"fit": "--resume"}
"""Verb -> the option with which the same command goes on."""
GO_ON_BY_THEMSELVES = ("compare", "pairs", "score")


def say_how_to_go_on(argv: Sequence[str]) -> None:
    """Prints the command that goes on with what was stopped, where there is one, on the standard error."""
    verb = argv[0]
    if verb == "score" and not any(word.partition("=")[0] == "--output" for word in argv):
        return
    option = RESUMES.get(verb)
    if option or verb in GO_ON_BY_THEMSELVES:
        words = [*argv, option] if option and option not in argv else argv
        print(
            f"\nstopped; what was finished is kept. To go on: probe {shlex.join(filter(None, words))}", file=sys.stderr
        )
