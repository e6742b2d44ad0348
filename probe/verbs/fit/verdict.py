"""The verdict in words: first what a newcomer needs, then what the figures say."""

from collections.abc import Iterator, Mapping

import numpy as np

from probe.data.concept import less
from probe.metrics.bootstrap import FEW_GROUPS, Estimate
from probe.metrics.evaluation import EvaluationSet, tied_layers
from probe.metrics.people import People, in_words
from probe.scorers.base import Scorer
from probe.scorers.judging import CONTROLS, Judge, Judgement


def verdict(scorer: Scorer, judgement: Judgement) -> str:
    """Says in a few plain sentences what was found on texts that nothing was learned from, and what that does not show."""
    rho = judgement.evaluation.estimates["spearman"][scorer.chosen]
    if np.isnan(rho.value):
        return f"Verdict: it ranks nothing here{': ' + scorer.note if scorer.note else ''}."
    concept, p95, most = scorer.data.concept, judgement.band_95[1], ceiling(scorer)
    better = {control.replace("_", " "): judgement.margins[control].lower > 0 for control in CONTROLS}
    better["random directions"] = rho.lower > p95
    beaten, unbeaten = ([name for name, is_so in better.items() if is_so is wanted] for wanted in (True, False))
    what = "the score" if scorer.kind == "single" else scorer.chosen.replace("_", " ")
    scale = (
        "0 is chance, 1 is perfect"
        if most > 0.995
        else f"0 is chance, {most:.2f} is the most that any score can reach here"
    )
    learned, judged = ({row.group for row in scorer.data.rows.get(split, ())} for split in ("train", "test"))
    seen = "that it has also learned from, by other texts" if learned & judged else "that it never saw"
    lines = [
        f"Verdict: {what} {'tells' if rho.lower > 0 else 'is NOT shown to tell'} {concept} texts from {less(concept)} ones, on "
        f"{rho.n_groups} topics {seen} (Spearman {rho.value:.2f} with the truth; {scale})."
    ]
    if beaten:
        lines.append(f"It beats {_listed(beaten)}.")
    if unbeaten:
        lines.append(f"It does NOT clearly beat {_listed(unbeaten)}: what it reads may be no more than that.")
    if "idea_accuracy" in judgement.evaluation.estimates:
        lines.append(
            f"With style held equal, it {_follows(judgement.evaluation.estimates['idea_accuracy'][scorer.chosen])}."
        )
    if judgement.people:
        lines.append(
            f"It agrees with these people {beside_a_rater(judgement.people)}."
            if judgement.people.agreement.is_shown
            else "These people are not shown to agree among themselves, so nothing can be concluded from their ratings."
        )
    lines.append(
        "It does not show that the direction causes anything, nor that other people would agree: for that look at the steered "
        "texts, and ask others."
        if judgement.people or scorer.data.rated
        else "It does not show that the direction causes anything, nor that a person would call these texts "
        f"{concept}: for that look at the steered texts, and at ratings by people."
    )
    return " ".join(lines)


def ceiling(scorer: Scorer) -> float:
    """The Spearman of a score that orders the test texts perfectly; below 1 where the truth ties and the score does not."""
    return EvaluationSet(scorer.data.rows["test"]).ceiling


def figures(scorer: Scorer, judge: Judge) -> Iterator[str]:
    """What the figures of the test say beside the table, a line each."""
    judgement = judge.judgements["test"]
    estimates = {metric: columns[scorer.chosen] for metric, columns in judgement.evaluation.estimates.items()}
    rho = estimates["spearman"]
    if "validation" in judge.judgements and scorer.kind == "layers":
        yield from _ties(judge.judgements["validation"].evaluation.estimates["spearman"], scorer)
    if np.isnan(rho.value):
        return
    for control in CONTROLS:
        margin = judgement.margins[control]
        name = control.replace("_", " ")
        yield (
            f"Spearman less that of {name}: {margin}."
            if np.isfinite(margin.value)
            else f"It cannot be compared with {name}, which ranks nothing here."
        )
    low, high = estimates["spearman_low"], estimates["spearman_high"]
    if np.isfinite(low.value):
        yield f"Within the lower and the upper half of the truth: {low} and {high}."
    if judgement.people:
        agreed = in_words(judgement.people.agreement)
        yield f"{agreed}. With raters resampled too, ours is {judgement.people.spearman}."
    if "preference_accuracy" in estimates:
        yield f"It shares people's preferences in {estimates['preference_accuracy']} of {estimates['preference_accuracy'].n}."
    if within := judgement.evaluation.within:
        told = "; ".join(f"{part} {of_column[scorer.chosen]}" for part, of_column in within.items())
        yield f"Within each part: {told}. Where these are lower than the whole, it tells who wrote a text, or how long it is."
    if "idea_accuracy" in estimates:
        yield idea_or_style(estimates)
    length = estimates["length"]
    if np.isfinite(length.value) and abs(length.value) > 0.3:
        yield f"Its score follows length with {length}: a length artefact is likely."
    if rho.too_few_groups:
        yield (
            f"The intervals are too narrow: {rho.n_groups} test groups, expected {FEW_GROUPS} or more. Where a fifth of them "
            f"is held out, as by default, that takes {5 * FEW_GROUPS} in all; `compare` judges every group, so {FEW_GROUPS} do."
        )


def idea_or_style(estimates: Mapping[str, Estimate]) -> str:
    """Whether a score follows the idea of a text or its style, where each idea is told in two styles."""
    idea, style = estimates["idea_accuracy"], estimates["style_accuracy"]
    shares = {what: estimates[f"{what}_share"].value for what in ("idea", "style", "topic", "length")}
    told = ", ".join(f"{what} {share:.0%}" for what, share in shares.items())
    return (
        f"Idea or style? Told in one style, the inventive idea scores higher in {idea}; with one idea, the ornate style does in "
        f"{style} (0.5 is chance, {idea.n_groups} topics): it {_follows(idea)}. Of the variance of its scores: {told}."
    )


def beside_a_rater(people: People) -> str:
    """How a score does beside one more person: whose agreement is that of one rater with the mean of the others."""
    ours, theirs = people.spearman, people.agreement.one_against_others
    if ours.too_few_groups or not np.isfinite([ours.value, theirs.value]).all():
        return "by an amount that so few topics cannot tell"
    told = f"({ours.value:.2f}; one of them with the others: {theirs.value:.2f})"
    if ours.upper < theirs.lower:
        return f"less than one more rater would {told}"
    if ours.lower > theirs.upper:
        return f"more than one more rater would {told}"
    return f"about as much as one more rater would {told}"


def _follows(idea: Estimate) -> str:
    return "follows the idea" if idea.lower > 0.5 else "is NOT shown to follow the idea"


def _ties(of_column: dict[str, Estimate], scorer: Scorer) -> Iterator[str]:
    """How many layers the choice was between."""
    layers = {name: e for name, e in of_column.items() if name in scorer.columns and np.isfinite(e.value)}
    if not layers:
        return
    tied = len(tied_layers(layers))
    if tied > 1 and scorer.chosen in layers:
        chosen = scorer.chosen.replace("_", " ")
        yield f"{tied} of {len(layers)} layers tie on validation, within one standard error of the best; {chosen} was taken."


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
