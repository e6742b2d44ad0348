"""`--witness A --witness B`: what of the section `steering` is said in short, and may be said more than once."""

import json
from collections.abc import Sequence

VERBS = ("fit", "validate", "test", "predict", "sweep", "stories")
"""Those that have such a section."""
SHORT = ("--witness", "--operator")
SEVERAL = "--steering.witness"


def said_in_full(argv: Sequence[str]) -> list[str]:
    """The words of a command with short names in full, and all that is said of the witnesses as one list."""
    if argv[0] not in VERBS:
        return [*argv]
    words, several = list[str](), list[str]()
    for word in argv:
        name, equals, value = word.partition("=")
        name = f"--steering.{name[2:]}" if name in SHORT else name
        if words and words[-1] == SEVERAL:
            words.pop()
            several.append(word)
        elif name == SEVERAL and equals:
            several.append(value)
        else:
            words.append(f"{name}{equals}{value}")
    if len(several) > 1:
        return [*words, f"{SEVERAL}={json.dumps(several)}"]
    return words + [f"{SEVERAL}={one}" for one in several]
