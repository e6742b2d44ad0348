"""compare: which way of reading the concept from the model is best, by how much, and whether that is real."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.data.concept import CREATIVE
from probe.data.contrast import read_contrast
from probe.data.reading import Span
from probe.data.rows import Preference, RatedText, read_crossed, read_judged, read_rows
from probe.errors import ProbeError
from probe.files import try_folder
from probe.lm.sources import cached
from probe.lm.spec import Contestant, LMSpec
from probe.options.types import AtLeastTwo, FilePath, PositiveInt, Seed

if TYPE_CHECKING:
    from probe.scorers import Scorer
    from probe.verbs.compare.crossfit import CrossFit


@dataclass
class ComparedData:
    """The files of a comparison.

    Args:
        pairs: JSONL or CSV of the contrastive pairs that all scorers learn from; or give `texts`.
        texts: JSONL or CSV of rated texts (text, rating, group) to learn from in place of pairs, and to be judged by.
        validation_stories: Rated texts: inside the training groups they choose layers, and they are judged on too.
        test_stories: Rated texts on which the scorers are compared.
        test_preferences: Compared texts.
        test_crossed: Texts on which idea and style are crossed.
        people: Further sets to be judged by, by name: texts that people rated, or that they compared.
        transfer: Further sets of pairs by name: fitted on one, judged on all. A contestant's `contrast` names one of these.
    """

    pairs: FilePath | None = None
    texts: FilePath | None = None
    validation_stories: FilePath | None = None
    test_stories: FilePath | None = None
    test_preferences: FilePath | None = None
    test_crossed: FilePath | None = None
    people: dict[str, FilePath] = field(default_factory=dict)
    transfer: dict[str, FilePath] = field(default_factory=dict)


def run(
    data: ComparedData,
    scorers: dict[str, Contestant],
    lms: list[LMSpec] | None = None,
    span: Span = "response",
    reference: str = "mean difference",
    folds: AtLeastTwo = 5,
    resamples: PositiveInt = 1000,
    seed: Seed = 0,
    concept: str = CREATIVE,
    cache_dir: FilePath = "auto",
    output: FilePath = "lightning_logs/compare",
) -> int:
    """Compares scorers by cross-fitting over groups: every group is judged once, by fits that never saw it.

    A finished fit is kept under CACHE_DIR/fits and never done twice; a killed run goes on where it was.

    Args:
        data: What is learned from and judged by.
        scorers: Contestants by name.
        lms: The language models to read, each on its own; the embedded one by default.
        span: Where the pairs are read: over the text that answers the instruction (response), over the instruction (prompt),
            or where the reply begins (reply).
        reference: The contestant that the others are compared with.
        folds: Shares of the groups; each is judged by what was fitted on the others.
        resamples: Of the group bootstrap.
        seed: Of folds and fits.
        concept: What the texts differ in, an adjective; a model that is asked is asked for it.
        cache_dir: Where activations and finished fits are remembered; `auto` is the user's cache folder.
        output: Folder of the runs.
    """
    crossfit = _crossfit(data, span, folds, seed, concept)
    specs = lms or [LMSpec()]
    if reference not in scorers:
        raise ProbeError(f"--reference {reference}: expected one of {', '.join(scorers)}; name one of these.")
    for name, contestant in scorers.items():
        if contestant.contrast not in (None, *(sets := ["pairs" if data.pairs else "texts", *data.transfer])):
            raise ProbeError(
                f"scorers.{name}.contrast: expected one of {', '.join(sets)}, found {contestant.contrast!r}; name one of these."
            )
        _check(name, contestant, specs[0], span)
        for part in crossfit.folds if contestant.examples else ():
            try:
                crossfit.training(crossfit.contrast_of(contestant.contrast), part, 0, contestant.examples)
            except ProbeError as error:
                raise ProbeError(f"scorers.{name}.{error}") from error
    if build(scorers[reference], specs[0], span, {}, reference).kind == "band":
        raise ProbeError(f"--reference {reference}: expected a single scorer, found a band; name another.")
    try_folder(output, "--output")
    cache = try_folder(cached(cache_dir), "--cache_dir")
    from probe.shown.terminal import Terminal
    from probe.verbs.compare.comparison import Comparison, compare_with
    from probe.verbs.compare.report import ComparisonReport

    console = Terminal()
    comparison = Comparison(crossfit, scorers, build, reference, resamples, seed, cache)
    results = [compare_with(name, spec, comparison, console) for name, spec in zip(_names(specs), specs, strict=True)]
    ComparisonReport(output, reference, crossfit, seed, results).write(console)
    return 0


def _crossfit(data: ComparedData, span: Span, folds: int, seed: int, concept: str) -> "CrossFit":
    if bool(data.pairs) == bool(data.texts):
        raise ProbeError("data: expected either `pairs` or `texts` to learn from, found both or none; give one.")
    learned_from = str(data.pairs or data.texts)
    pairs, texts = read_contrast(learned_from) if data.pairs else ([], read_rows(learned_from, RatedText))
    files = [
        f
        for f in (learned_from, data.validation_stories, data.test_stories, data.test_preferences, data.test_crossed)
        if f
    ]
    names = [Path(f).stem for f in files] + [*data.people, *data.transfer]
    for name in names:
        if names.count(name) > 1:
            raise ProbeError(
                f"data: expected files and sets with names of their own, found {name!r} twice; rename one."
            )
    rated = {Path(f).stem: read_rows(f, RatedText) for f in (data.validation_stories, data.test_stories) if f}
    if texts and pairs:
        rated[f"{Path(learned_from).stem}_texts"] = texts
    preferences = {Path(f).stem: read_rows(f, Preference) for f in (data.test_preferences,) if f}
    for name, file in data.people.items():
        judged = read_judged(file)
        compared = [row for row in judged if isinstance(row, Preference)]
        if compared:
            preferences[name] = compared
        else:
            rated[name] = [row for row in judged if isinstance(row, RatedText)]
    crossed = {Path(f).stem: read_crossed(f) for f in (data.test_crossed,) if f}
    others = {name: read_contrast(file)[0] for name, file in data.transfer.items()}
    from probe.verbs.compare.crossfit import ContrastSet, CrossFit

    main = Path(learned_from).stem
    contrasts = {main: ContrastSet(pairs or texts, span if pairs else "response")}
    if span == "response" and pairs:
        contrasts[f"{main}: prompts"] = ContrastSet(pairs, "prompt")
    for name, found in others.items():
        told = all(pair.response_creative and pair.response_uncreative for pair in found)
        contrasts[name] = ContrastSet(found, span if told else "prompt" if span == "response" else span)
    choose_on = Path(data.validation_stories).stem if data.validation_stories else None if pairs else main
    judged_on = Path(
        data.test_stories or data.test_crossed or (data.pairs and data.validation_stories) or learned_from
    ).stem
    return CrossFit(contrasts, rated, preferences, choose_on, judged_on, folds, seed, concept, crossed)


def build(contestant: Contestant, lm: LMSpec, span: Span, settings: Mapping[str, Any], name: str = "") -> "Scorer":
    """Makes a scorer from its config, checked as `fit` checks it.

    Raises:
        ProbeError: for a class or an argument that is not known.
    """
    import jsonargparse

    from probe.scorers import Scorer

    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Scorer, "scorer", required=True)
    reading = asdict(contestant.reading) if contestant.reading else {}
    arguments = {"lm": asdict(lm), "span": span, **reading, **contestant.args, **settings}
    try:
        config = parser.parse_object({"scorer": {"class_path": contestant.scorer, "init_args": arguments}})
    except jsonargparse.ArgumentError as error:
        reason = " ".join(str(error).split())[:300]
        raise ProbeError(
            f"scorers.{name}: expected a scorer and its arguments, but {reason}; correct the config."
        ) from error
    scorer: Scorer = parser.instantiate(config).scorer
    return scorer


def _check(name: str, contestant: Contestant, spec: LMSpec, span: Span) -> None:
    """Builds a contestant with every value of its grid once, before anything expensive."""
    build(contestant, spec, span, {}, name)
    for argument, values in contestant.grid.items():
        for value in values:
            build(contestant, spec, span, {argument: value}, name)


def _names(specs: list[LMSpec]) -> list[str]:
    """The folders' names; those that several share are numbered."""
    names = [re.sub(r"[^\w.-]+", "_", Path(spec.model).name) for spec in specs]
    return [name if names.count(name) == 1 else f"{name}_{i}" for i, name in enumerate(names)]
