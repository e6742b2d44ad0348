"""Numbers of a text's surface."""

import re


def type_token_ratio(text: str) -> float:
    """Different words over all words, in lower case; 0 for a text without words."""
    words = re.findall(r"\w+", text.lower())
    return len(set(words)) / len(words) if words else 0.0
