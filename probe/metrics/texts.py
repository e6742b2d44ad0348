"""Numbers of a text's surface, and of how much a set of texts repeats itself; no language model."""

import math
import re
import unicodedata
import zlib
from collections.abc import Iterable, Sequence

import numpy as np
from torchmetrics.functional.text import bleu_score


def _tokens(text: str) -> list[str]:
    """Runs of letters and digits in lower case, which the bag of words reads too."""
    return re.findall(r"\w+", unicodedata.normalize("NFC", text).lower())


def type_token_ratio(text: str) -> float:
    """Different words over all words; 0 for a text without words."""
    words = _tokens(text)
    return len(set(words)) / len(words) if words else 0.0


SURFACE = ("words", "log_words", "type_token_ratio", "letters_per_word", "commas", "full_stops", "quotation_marks")


def surface_features(text: str) -> list[float]:
    """Seven numbers `[7]` of a text's surface, named by `SURFACE`: what a judgement of its ideas must not rest on."""
    words = _tokens(text)
    n = max(len(words), 1)
    letters = sum(map(len, words)) / n
    marks = (float(text.count(",")), float(text.count(".")), float(sum(map(text.count, '"\u201c\u201d'))))
    return [float(len(words)), math.log(n), type_token_ratio(text), letters, *marks]


def _ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[i:] for i in range(n)), strict=False))


def distinct(texts: Iterable[str], n: int) -> float:
    """Different n-grams over all n-grams of a set of texts; nan where there is none.

    Source: Li et al. 2016, "A Diversity-Promoting Objective Function", arXiv 1510.03055, section 5.
    """
    grams = [gram for text in texts for gram in _ngrams(_tokens(text), n)]
    return len(set(grams)) / len(grams) if grams else float("nan")


def repetition(text: str, n: int = 4) -> float:
    """Share of a text's n-grams that stood in it before: 0 for none, near 1 for a loop; 0 for a text shorter than n."""
    grams = _ngrams(_tokens(text), n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def compression_ratio(texts: Iterable[str]) -> float:
    """Bytes over compressed bytes of all texts together: the more they repeat themselves and one another, the higher.

    Source: Shaib et al. 2024, "Standardizing the Measurement of Text Diversity", arXiv 2403.00553.
    """
    raw = "\n".join(texts).encode()
    return len(raw) / len(zlib.compress(raw, 9)) if raw else float("nan")


def self_bleu(texts: Sequence[str], most: int = 50) -> float:
    """Mean BLEU-4 of each text against all others, of at most `most` texts spread over the set; nan below two texts.

    Source: Zhu et al. 2018, "Texygen", arXiv 1802.01886.
    """
    kept = [" ".join(_tokens(text)) for text in texts]
    kept = [text for text in kept if text]
    kept = [kept[i] for i in np.linspace(0, len(kept) - 1, min(most, len(kept))).round().astype(int)] if kept else []
    if len(kept) < 2:
        return float("nan")
    scores = [
        bleu_score([text], [[o for j, o in enumerate(kept) if j != i]], smooth=True) for i, text in enumerate(kept)
    ]
    return float(np.mean([float(score) for score in scores]))
