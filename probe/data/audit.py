"""What is wrong with a contrast set before anyone trusts a direction from it, told from its texts alone."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from probe.data.concept import CREATIVE, less
from probe.data.frames import TEMPLATE, templated, without_frame
from probe.data.reading import Span
from probe.data.rows import RatedText, TextPair
from probe.data.texts import words_of
from probe.errors import ProbeError

Severity = Literal["ok", "warning", "error"]
NEAR_DUPLICATE = 0.5
"""Share of words in common (Jaccard, token sets) from which two texts are near-duplicates."""
SAME = 0.8
"""The share from which they are nearly the same; also where little is compared, such as what fills a template."""
MARKERS = frozenset(
    """creative creativity inventive imaginative original unique surprising unexpected magic magical magically mysterious
    strange weird odd bizarre impossible suddenly secretly somehow enchanted boring ordinary normal normally usual usually
    routine plain simple simply everyday regular regularly typical typically standard predictable uneventful uneventfully
    nothing""".split()  # noqa: SIM905
)
"""Words that name a class instead of showing it; a direction from them is one of vocabulary."""


@dataclass(frozen=True)
class Finding:
    """One check's answer."""

    check: str
    severity: Severity
    value: float
    message: str
    examples: tuple[str, ...] = ()


def audit_pairs(
    pairs: Sequence[TextPair],
    span: Span = "prompt",
    held_out: Mapping[str, Sequence[RatedText]] | None = None,
    concept: str = CREATIVE,
) -> list[Finding]:
    """Runs every check on the texts that would be read.

    Raises:
        ProbeError: where span `response` is asked of pairs that have none.
    """
    sides = [(p.creative, p.uncreative) if span != "response" else _responses(p) for p in pairs]
    groups = [pair.group for pair in pairs]
    words = [(words_of(a), words_of(b)) for a, b in sides]
    share = templated(words)
    columns = ([" ".join(text) for text in without_frame(side)] for side in zip(*words, strict=True))
    filled = list(zip(*columns, strict=True))
    return [
        *_groups(groups),
        *_identical(sides, concept),
        _template(share, concept),
        *(
            _duplicates(filled, SAME, groups, concept)
            if share >= TEMPLATE
            else _duplicates(sides, NEAR_DUPLICATE, groups, concept)
        ),
        *_lengths(sides),
        *_markers(sides, concept),
        *_telling_words(sides, groups, concept),
        *_bag_of_words(sides, groups, concept),
        *_split_leakage(pairs, held_out or {}),
    ]


def _responses(pair: TextPair) -> tuple[str, str]:
    if pair.response_creative is None or pair.response_uncreative is None:
        raise ProbeError(
            f"--span response: expected responses on both sides of every pair, found none for {pair.creative[:60]!r}; "
            "use --span prompt or add them."
        )
    return pair.response_creative, pair.response_uncreative


def _groups(groups: Sequence[str]) -> Iterator[Finding]:
    counts = Counter(groups)
    severity: Severity = "error" if len(counts) < 4 else "warning" if len(counts) < 20 else "ok"
    largest, n = counts.most_common(1)[0]
    yield Finding("groups", severity, len(counts), _needed(len(counts)))
    share = n / len(groups)
    yield Finding("largest_group", "warning" if share > 0.5 else "ok", share, f"share of pairs in one group, {largest}")


def _needed(n: int) -> str:
    """How many groups there are and what for; the bootstrap calls fewer than 20 too few."""
    return (
        f"{n} groups; 4 are needed to split. An interval needs 20 that are judged: 100 where `fit` holds a fifth out to test on, "
        "20 with `compare`, which judges every group"
    )


def _template(share: float, concept: str) -> Finding:
    message = (
        "pairs whose sides differ in the same words as another pair's: a direction from them can tell these instructions apart, "
        f"and may steer; that the model knows {concept} texts they cannot show. Read them with --span reply, and judge the "
        "direction on rated texts"
    )
    return Finding("template_pairs", "warning" if share >= TEMPLATE else "ok", share, message)


def _identical(sides: Sequence[tuple[str, str]], concept: str) -> Iterator[Finding]:
    same = [a for a, b in sides if words_of(a) == words_of(b)]
    yield Finding(
        "identical_sides", "error" if same else "ok", len(same), "pairs whose two sides say the same", _few(same)
    )
    creative = {tuple(words_of(a)) for a, _ in sides}
    both = [b for a, b in sides if tuple(words_of(b)) in creative and words_of(a) != words_of(b)]
    message = f"{less(concept)} texts that stand as the {concept} side of another pair"
    yield Finding("contradictions", "error" if both else "ok", len(both), message, _few(both))


def _duplicates(
    sides: Sequence[tuple[str, str]], at_least: float, groups: Sequence[str], concept: str
) -> Iterator[Finding]:
    for column, side in enumerate(("creative", "uncreative")):
        texts = [pair[column] for pair in sides]
        first, second, share = _overlaps(texts, texts, at_least)
        above = first < second
        apart = np.array([groups[i] != groups[j] for i, j in zip(first, second, strict=True)], dtype=bool)
        for name, chosen, severity, where in (
            ("across", above & apart, "error", "of different groups: they can fall on both sides of a split"),
            ("within", above & ~apart, "warning", "of one group: they count as one text, not as several"),
        ):
            examples = [f"{share[k]:.2f}: {texts[first[k]]} / {texts[second[k]]}" for k in np.flatnonzero(chosen)]
            what = (concept, less(concept))[column]
            message = f"pairs of near-duplicate {what} texts (word overlap >= {at_least}) {where}"
            judged: Severity = severity if examples else "ok"  # type: ignore[assignment]
            yield Finding(f"duplicates_{name}_groups_{side}", judged, len(examples), message, _few(examples))


def _overlaps(
    left: Sequence[str], right: Sequence[str], at_least: float
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Indices and Jaccard overlap of the pairs of texts that share so many of their words."""
    from sklearn.feature_extraction.text import CountVectorizer

    vectorizer = CountVectorizer(analyzer=words_of, binary=True, dtype=np.int32).fit([*left, *right])
    a, b = vectorizer.transform(left), vectorizer.transform(right)
    common = (a @ b.T).tocoo()
    size_a, size_b = np.asarray(a.sum(1)).ravel(), np.asarray(b.sum(1)).ravel()
    share = common.data / (size_a[common.row] + size_b[common.col] - common.data)
    kept = share >= at_least
    return common.row[kept], common.col[kept], share[kept]


def _lengths(sides: Sequence[tuple[str, str]]) -> Iterator[Finding]:
    n = np.array([[len(words_of(text)) for text in pair] for pair in sides], dtype=float)
    apart = float(np.mean(np.abs(n[:, 0] - n[:, 1]) / n.max(1).clip(1)))
    message = "mean difference of the two sides' word counts, as a share of the longer"
    yield Finding("length_in_pair", "warning" if apart > 0.15 else "ok", apart, message)
    label = np.tile([1.0, 0.0], len(n))
    r = float(np.corrcoef(label, n.ravel())[0, 1]) if n.std() else 0.0
    # Two standard errors: a correlation of 0.05 over few pairs is noise.
    leaks = abs(r) > max(0.05, 2 / np.sqrt(2 * len(n)))
    yield Finding("length_and_class", "warning" if leaks else "ok", r, "correlation of class and word count")


def _markers(sides: Sequence[tuple[str, str]], concept: str) -> Iterator[Finding]:
    from scipy.stats import binomtest

    markers = MARKERS if concept == CREATIVE else set(words_of(concept))
    counts = [Counter(w for pair in sides for w in set(words_of(pair[side])) & markers) for side in (0, 1)]
    creative, uncreative = (count.total() for count in counts)
    total = creative + uncreative
    uneven = total > 0 and binomtest(creative, total).pvalue < 0.05
    often = total > 0.1 * len(sides)
    examples = [
        f"{w}: {counts[0][w]} {concept}, {counts[1][w]} {less(concept)}"
        for w, _ in (counts[0] + counts[1]).most_common(8)
    ]
    message = f"texts with words that name a class ({creative} {concept}, {uncreative} {less(concept)})"
    yield Finding("class_marking_words", "warning" if uneven or often else "ok", total, message, tuple(examples))


def _telling_words(sides: Sequence[tuple[str, str]], groups: Sequence[str], concept: str) -> Iterator[Finding]:
    from scipy.stats import binomtest

    lead: dict[str, Counter[str]] = {}
    for (creative, uncreative), group in zip(sides, groups, strict=True):
        left, right = set(words_of(creative)), set(words_of(uncreative))
        for word in left ^ right:
            lead.setdefault(word, Counter())[group] += 1 if word in left else -1
    told = []
    for word, by_group in sorted(lead.items(), key=lambda item: (-abs(sum(item[1].values())), item[0])):
        a, b = sum(n > 0 for n in by_group.values()), sum(n < 0 for n in by_group.values())
        if a + b and binomtest(a, a + b).pvalue < 0.01 / len(lead):  # Bonferroni over words
            told.append(f"{word}: {concept} in {a} groups, {less(concept)} in {b}")
    message = "words on one side in far more groups than on the other (sign test, 1 % over all words)"
    yield Finding("telling_words", "warning" if told else "ok", len(told), message, _few(told, 8))


def _bag_of_words(sides: Sequence[tuple[str, str]], groups: Sequence[str], concept: str) -> Iterator[Finding]:
    if len(set(groups)) < 5:
        return
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline

    texts = [text for pair in sides for text in pair]
    label = np.tile([1, 0], len(sides))
    by_group = np.repeat(np.unique(np.asarray(groups), return_inverse=True)[1], 2)
    model = make_pipeline(CountVectorizer(analyzer=words_of, binary=True), LogisticRegression(max_iter=2000))
    scores = cross_val_predict(model, texts, label, groups=by_group, cv=GroupKFold(5), method="decision_function")
    accuracy = float(np.mean((scores > 0) == label))
    creative, uncreative = scores.reshape(-1, 2).T
    won = float(np.mean(np.sign(creative - uncreative) / 2 + 0.5))
    model.fit(texts, label)
    names, weight = model[0].get_feature_names_out(), model[1].coef_[0]
    order = np.argsort(weight)
    carrying = (f"{concept}: {', '.join(names[order[:-9:-1]])}", f"{less(concept)}: {', '.join(names[order[:8]])}")
    judged: Severity = "warning" if accuracy > 0.8 else "ok"
    message = (
        f"accuracy of words alone on unseen groups (pair accuracy {won:.2f}); above 0.80 the vocabulary gives it away"
    )
    yield Finding("bag_of_words", judged, accuracy, message, carrying)


def _split_leakage(pairs: Sequence[TextPair], held_out: Mapping[str, Sequence[RatedText]]) -> Iterator[Finding]:
    own = [
        text for p in pairs for text in (p.creative, p.uncreative, p.response_creative, p.response_uncreative) if text
    ]
    for name, stories in held_out.items():
        texts = [story.text for story in stories]
        _, theirs, _ = _overlaps(own, texts, SAME)
        leaked = [texts[i] for i in sorted(set(theirs.tolist()))]
        message = f"texts of {name} that stand among the pairs, nearly word for word"
        yield Finding(f"leak_{name}", "error" if leaked else "ok", len(leaked), message, _few(leaked))
    shared = (
        sorted(set.intersection(*({s.group for s in stories} for stories in held_out.values())))
        if len(held_out) > 1
        else []
    )
    if len(held_out) > 1:
        message = f"groups in both {' and '.join(held_out)}: the layer is chosen on what it is judged by"
        yield Finding("leak_groups", "error" if shared else "ok", len(shared), message, _few(shared))


def _few(texts: Sequence[str], n: int = 3) -> tuple[str, ...]:
    return tuple(text if len(text) <= 300 else f"{text[:300]}…" for text in texts[:n])
