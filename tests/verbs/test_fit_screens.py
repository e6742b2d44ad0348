"""What a run shows fits a terminal of 80 columns, says first what a newcomer needs, and calls the concept by its name."""

import io
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest

from probe.data.reading import Row
from probe.metrics.bootstrap import Estimate
from probe.metrics.evaluation import EvaluationSet
from probe.metrics.people import Agreement, People
from probe.scorers.judging import CONTROLS, Judgement
from probe.shown.terminal import Terminal
from probe.verbs.fit.screens import print_result, whole_sentences
from probe.verbs.fit.verdict import beside_a_rater, verdict

Show = Callable[..., str]


def judgement(rows: list[Row], weight: float, split: str, column: str = "layer") -> Judgement:
    """Thirty layers that follow the truth, the better the nearer they are to layer 17, and rivals that know nothing."""
    judge, rng = EvaluationSet(rows), np.random.default_rng(len(split))
    noise = rng.normal(size=len(rows))
    columns = {f"{column}_{k}": judge.truth * weight * 0.95 ** abs(k - 17) + noise for k in range(30)}
    columns |= {name: rng.normal(size=len(rows)) for name in CONTROLS}
    evaluation = judge.evaluate(columns, rng.normal(size=len(rows)), 200)
    margins = {name: judge.difference(columns[f"{column}_17"], columns[name]) for name in CONTROLS}
    return Judgement(evaluation, columns[f"{column}_17"], rng.normal(0, 0.1, 200), margins)


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch) -> Show:
    monkeypatch.setenv("COLUMNS", "80")

    def shown(
        weight: float = 2.0, levels: int = 5, n_groups: int = 30, concept: str = "creative", column: str = "layer"
    ) -> str:
        rows = [Row("p", "t", f"g{i % n_groups}", float(i % levels)) for i in range(4 * n_groups)]
        splits: tuple[Literal["validation", "test"], ...] = ("validation", "test")
        judge: Any = SimpleNamespace(judgements={split: judgement(rows, weight, split, column) for split in splits})
        data = SimpleNamespace(rows=dict.fromkeys(splits, rows), concept=concept, rated=False)
        scorer: Any = SimpleNamespace(
            data=data,
            chosen=f"{column}_17",
            columns=tuple(f"{column}_{k}" for k in range(30)),
            kind="layers" if column == "layer" else column,
            span="response",
            note="",
        )
        out = io.StringIO()
        print_result(Terminal(file=out), scorer, judge)
        return out.getvalue()

    return shown


def test_thirty_layers_are_a_table_of_at_most_eight_rows_that_fits_eighty_columns(show: Show) -> None:
    lines = show().splitlines()
    assert max(map(len, lines)) <= 80
    start = next(i for i, line in enumerate(lines) if set(line) == {"─"})
    rows = lines[start + 1 : lines.index("", start)]
    assert [row.split("  ")[0] for row in rows] == [
        "16", "17 (chosen)", "18", "length", "surface", "bag of words", "27 others", "200 random",
    ]  # fmt: skip
    assert not any("…" in line for line in lines)


def test_no_figure_is_cut_where_every_one_has_two_minus_signs_and_the_columns_have_long_names(show: Show) -> None:
    lines = show(weight=-0.5, column="a_rival_that_has_a_name_of_a_dozen_words").splitlines()
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)
    said = " ".join(" ".join(lines).split())
    assert "dozen words 17" in said and "(chosen)" in said


def test_the_verdict_stands_before_the_figures_and_is_three_sentences(show: Show) -> None:
    out = show()
    verdict, _, figures = out.partition("Spearman  ")
    said = " ".join(verdict.split())
    assert said.startswith(
        "Verdict: layer 17 tells creative texts from uncreative ones, on 30 topics that it never saw"
    )
    assert "It beats length, surface, bag of words and random directions. It does not show" in said
    assert "tie on validation" in figures


def test_a_score_that_beats_nothing_is_said_to_tell_nothing(show: Show) -> None:
    said = " ".join(show(weight=0.0).split())
    assert "is NOT shown to tell creative texts" in said
    assert "It does NOT clearly beat length, surface, bag of words and random directions" in said


def test_another_concept_is_called_by_its_name(show: Show) -> None:
    said = " ".join(show(concept="formal").split())
    assert "tells formal texts from less formal ones" in said
    assert "a person would call these texts formal" in said
    assert "creativ" not in said


def test_how_high_spearman_can_go_is_said_where_the_truth_has_two_values(show: Show) -> None:
    assert "0.87 is the most that any score can reach here" in " ".join(show(levels=2).split())
    rows = [Row("p", "t", f"g{i}", float(i % 2)) for i in range(100)]
    judge = EvaluationSet(rows)
    assert judge.ceiling == pytest.approx(np.sqrt(3) / 2, abs=1e-3)
    scores = np.random.default_rng(0).normal(size=(100, 50)) * 1e-3 + judge.truth[:, None]  # each in perfect order
    assert judge.spearman(scores) == pytest.approx(judge.ceiling)


def test_too_few_test_groups_are_told_how_many_it_takes(show: Show) -> None:
    few = " ".join(show(n_groups=8).split())
    assert "8 test groups, expected 20 or more" in few
    assert "that takes 100 in all; `compare` judges every group, so 20 do" in few
    assert "takes 100" not in show(n_groups=30)


def test_how_many_layers_tie_is_said(show: Show) -> None:
    def told(weight: float) -> int:
        return int(show(weight).split(" of 30 layers tie")[0].split()[-1])

    assert told(0.0) > told(2.0) > 1


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("One. Two! Three and th", "One. Two!"),
        ('She said "Go." And then', 'She said "Go."'),
        ("no end in sight", "no end in sight"),
        ("Done.", "Done."),
        ("", ""),
    ],
)
def test_a_text_ends_with_its_last_full_sentence(text: str, whole: str) -> None:
    assert whole_sentences([text]) == [whole]


def test_topics_that_were_also_learned_from_are_not_called_new() -> None:
    rows = [Row("p", "t", f"g{i % 30}", float(i % 5)) for i in range(120)]
    for train, said in (([Row("p", "u", "g3", 1.0)], "also learned from, by other texts"), ([], "that it never saw")):
        data = SimpleNamespace(rows={"train": train, "test": rows}, concept="creative", rated=True)
        scorer: Any = SimpleNamespace(data=data, chosen="layer_17", kind="layers", note="")
        assert said in verdict(scorer, judgement(rows, 2.0, "test"))


@pytest.mark.parametrize(
    ("ours", "theirs", "says"),
    [
        ((0.8, 0.7, 0.9), (0.5, 0.4, 0.6), "more than one more rater would (0.80; one of them with the others: 0.50)"),
        ((0.5, 0.4, 0.6), (0.55, 0.45, 0.65), "about as much as one more rater would"),
        ((0.2, 0.1, 0.3), (0.5, 0.4, 0.6), "less than one more rater would"),
    ],
)
def test_a_score_is_set_beside_one_more_rater_by_intervals(
    ours: tuple[float, float, float], theirs: tuple[float, float, float], says: str
) -> None:
    spearman, one = Estimate(*ours, 200, 40), Estimate(*theirs, 200, 40)
    assert beside_a_rater(People(Agreement(one, one, 3), spearman)).startswith(says)
    few = Estimate(*ours, 10, 2)
    assert "cannot tell" in beside_a_rater(People(Agreement(one, one, 3), few))
