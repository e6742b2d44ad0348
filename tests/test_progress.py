"""Signs of life: a log shows lines at a steady pace, with an estimate that is right where the pace is even."""

import pytest

from probe.progress import EVERY, FIRST, duration, track, working


def test_a_log_gets_a_first_line_soon_and_then_one_every_fifteen_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    with working("reading", 100, "texts", clock=lambda: now[0]) as advance:
        for _ in range(100):
            now[0] += 1  # one second a text
            advance(1)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 + int((100 - FIRST) // EVERY)
    assert lines[0] == "reading 2 of 100 texts, 2 min left"
    assert all(line.startswith("reading ") and line.endswith(" left") for line in lines)


def test_the_estimate_goes_by_the_size_of_what_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    with working("writing", 100, clock=lambda: now[0]) as advance:
        for size in (10, 30, 60):
            now[0] += size  # a second for each unit of size
            advance(size)
    assert capsys.readouterr().err.splitlines() == ["writing 10 of 100, 2 min left", "writing 40 of 100, 60 s left"]


def test_what_is_quick_or_not_to_be_shown_says_nothing_and_loses_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(range(5), "reading", 5)) == list(range(5))
    with working("reading", 5, shown=False, clock=lambda: 1e9) as advance:
        advance(5)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("seconds", "said"), [(0.2, "1 s"), (40, "40 s"), (240, "4 min"), (7800, "2 h 10 min")])
def test_a_duration_is_said_as_a_person_says_it(seconds: float, said: str) -> None:
    assert duration(seconds) == said
