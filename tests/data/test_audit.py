"""The audit finds each planted fault in a good set, and nothing in the good set itself."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from probe.cli import main
from probe.data.audit import audit_pairs
from probe.data.rows import RatedText, TextPair, read_rows
from probe.errors import ProbeError

ROOT = Path(__file__).parents[2]
GOOD = read_rows(ROOT / "data/creativity/pairs.jsonl", TextPair)
HALF = GOOD[:250]  # fifty topics: enough for every check, in half the time
Pairs = list[TextPair]


def raised(pairs: Pairs, held_out: dict[str, list[RatedText]] | None = None) -> dict[str, str]:
    return {f.check: f.severity for f in audit_pairs(pairs, "prompt", held_out) if f.severity != "ok"}


def each(pairs: Pairs, change: Callable[[TextPair], TextPair], every: int = 1) -> Pairs:
    return [change(pair) if i % every == 0 else pair for i, pair in enumerate(pairs)]


def append(creative: str, uncreative: str) -> Callable[[TextPair], TextPair]:
    return lambda x: replace(x, creative=f"{x.creative} {creative}", uncreative=f"{x.uncreative} {uncreative}")


def test_the_good_set_raises_nothing() -> None:
    assert raised(GOOD) == {}


FAULTS: dict[str, tuple[Callable[[Pairs], Pairs], dict[str, str]]] = {
    "one pair twice in its group": (lambda p: [*p, p[0]], dict.fromkeys(
        ("duplicates_within_groups_creative", "duplicates_within_groups_uncreative"), "warning")),
    "one pair again under another topic": (lambda p: [*p, replace(p[0], group=p[-1].group)], dict.fromkeys(
        ("duplicates_across_groups_creative", "duplicates_across_groups_uncreative"), "error")),
    "a creative side used twice": (lambda p: [*p[:-1], replace(p[-1], creative=p[0].creative)],
        {"duplicates_across_groups_creative": "error"}),
    "two sides that say the same": (lambda p: [replace(p[0], uncreative=p[0].creative.upper()), *p[1:]],
        {"identical_sides": "error"}),
    "sides mixed up between pairs": (lambda p: [*p[:-1], replace(p[-1], uncreative=p[0].creative)],
        {"contradictions": "error"}),
    "a word that only one side has": (lambda p: each(p, append("Octopus.", "Well then.")),
        {"telling_words": "warning", "bag_of_words": "warning"}),
    "words that name the class": (lambda p: each(p, append("Suddenly, yes.", "Later on, yes."), 20),
        {"class_marking_words": "warning"}),
    "a longer creative side": (
        lambda p: [append(" ".join(q.creative.split()[:9]), "")(x) for x, q in zip(p, p[::-1], strict=True)],
        {"length_in_pair": "warning", "length_and_class": "warning"},
    ),
    "ten topics": (lambda p: p[:50], {"groups": "warning"}),
    "three topics": (lambda p: p[:15], {"groups": "error"}),
    "one topic for most": (lambda p: [replace(x, group="all") if i < 150 else x for i, x in enumerate(p)],
        {"largest_group": "warning"}),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault: str) -> None:
    spoil, expected = FAULTS[fault]
    found = raised(spoil(HALF))
    assert found.items() >= expected.items()
    if "duplicates" in " ".join(expected):
        assert found == expected


def test_a_text_that_is_learned_from_and_judged_on_is_found() -> None:
    def story(text: str, group: str) -> RatedText:
        return RatedText(text, 1.0, group)

    fresh = story("Nobody in the village has seen the heron since the bridge was painted.", "heron")
    assert raised(HALF, {"validation_stories": [fresh], "test_stories": [replace(fresh, group="other")]}) == {}
    leaked = story(HALF[3].creative.replace(".", "!"), "leak")
    assert raised(HALF, {"test_stories": [fresh, leaked]}) == {"leak_test_stories": "error"}
    assert raised(HALF, {"validation_stories": [fresh], "test_stories": [fresh]}) == {"leak_groups": "error"}


def test_responses_are_judged_where_they_are_what_is_read() -> None:
    pairs = [replace(p, response_creative="Same words.", response_uncreative="same words") for p in HALF]
    found = {f.check: f for f in audit_pairs(pairs, "response")}
    assert found["identical_sides"].value == len(HALF)
    with pytest.raises(ProbeError, match="--span response: expected responses"):
        audit_pairs(GOOD, "response")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, pairs: Pairs) -> str:
    rows = [{"creative": p.creative, "uncreative": p.uncreative, "group": p.group} for p in pairs]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(("spoil", "code"), [(lambda p: p[:100], 0), (lambda p: p[:50], 1), (lambda p: p[:15], 3)])
def test_the_exit_code_tells_the_worst_and_the_json_all_of_it(
    here: Path, spoil: Callable[[Pairs], Pairs], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(here / "pairs.jsonl", spoil(GOOD))
    assert main(("audit", "--data.pairs", file, "--output", "audit.json")) == code
    report = json.loads((here / "audit.json").read_text())
    assert report["severity"] == {0: "ok", 1: "warning", 3: "error"}[code]
    assert {f["check"] for f in report["findings"]} >= {"groups", "duplicates_across_groups_creative", "telling_words"}
    assert "what the audit found" in capsys.readouterr().out


def test_a_model_adds_how_steady_the_direction_is_and_shows_what_it_reads(
    here: Path, tiny_lm_folder: Path, small_sets: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    config = here / "fit.yaml"
    config.write_text(
        f"lm: {{model: {tiny_lm_folder}}}\nmodel: {{class_path: MeanDifference}}\nsteering: {{witness: none}}\n"
        f"data: {{class_path: ContrastData, init_args: {{pairs: {small_sets['pairs']}, batch_size: 3}}}}\n"
    )
    command = ("audit", "--config", str(config), "--span", "response", "--output", "a.json")
    assert main((*command, "--tokens", "2")) in (1, 3)
    shown = capsys.readouterr().out
    report = json.loads(Path("a.json").read_text())
    assert {"direction_exists", "direction_steady", "classes_apart", "pairs_against"} <= {
        f["check"] for f in report["findings"]
    }
    assert main((*command[:-1], "b.json", "--pooling", "last")) in (1, 3)
    assert json.loads(Path("b.json").read_text())["layers"] != report["layers"]
    assert len(report["pair_cosines"]) == len(read_rows(small_sets["pairs"], TextPair))
    assert {*report["layers"][0]} == {"layer", "pair_cosine", "split_half_cosine", "permutation_p", "d_prime"}
    assert shown.count("read tokens in [ ]") == 2
    first = read_rows(small_sets["pairs"], TextPair)[0]
    read = "".join(
        part.partition("]")[0] for part in "".join(shown.split("read tokens in [ ]:")[1].splitlines()).split("[")[1:]
    )
    assert (first.response_creative or "").split()[0].strip('",') in read
    assert first.creative.split()[0] not in read


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--data.pairs", "nowhere.jsonl"), "nowhere.jsonl: no such file"),
        (("--data.pair", "x"), "found --data.pair; did you mean --data.pairs?"),
        ((), "data.pairs"),
        (("--config", "nowhere.yaml"), "nowhere.yaml: cannot be read"),
        (("--config", "odd.yaml"), "found the section `date`"),
        (("--config", "list.yaml"), "expected `data` to be a section"),
        (("--data.pairs", "pairs.jsonl", "--tokens", "2"), "--tokens: expected a model"),
    ],
)
def test_bad_input_ends_in_one_sentence(
    here: Path, options: tuple[str, ...], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (here / "odd.yaml").write_text("date: {pairs: pairs.jsonl}\n")
    (here / "list.yaml").write_text("data: [pairs.jsonl]\n")
    write(here / "pairs.jsonl", GOOD[:100])
    assert main(("audit", *options)) == 2
    error = capfd.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_what_one_group_cannot_tell_is_no_good_news_and_null_in_the_file(
    tiny_lm_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pairs = [{"creative": f"A hen sang {n}.", "uncreative": f"A hen sat {n}.", "group": "hens"} for n in range(4)]
    Path("pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    assert main(["audit", "--data.pairs=pairs.jsonl", f"--lm.model={tiny_lm_folder}", "--output=audit.json"]) == 3
    text = Path("audit.json").read_text()
    found = {f["check"]: (f["severity"], f["value"]) for f in json.loads(text)["findings"]}
    assert "NaN" not in text
    assert found["classes_apart"] == found["pairs_against"] == ("warning", None)


TASKS = [line for line in (ROOT / "data/tasks/neutral.txt").read_text().splitlines() if line][:24]
TEMPLATED = [
    TextPair(f"Answer as a courteous assistant would: {task}", f"Answer as a rude assistant would: {task}", f"task {i}")
    for i, task in enumerate(TASKS)
]


def test_pairs_from_a_template_are_told_what_they_can_show_and_are_not_condemned(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = raised(TEMPLATED)
    assert found["template_pairs"] == "warning"
    assert "error" not in found.values()
    assert main(("audit", "--data.pairs", write(here / "pairs.jsonl", TEMPLATED), "--concept", "courteous")) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "they cannot show" in out
    assert "Next: probe fit" in out
    assert "creative" not in out


def test_one_task_twice_in_a_template_is_still_an_error() -> None:
    again = replace(TEMPLATED[0], group="another")
    assert raised([*TEMPLATED, again])["duplicates_across_groups_creative"] == "error"


def test_the_number_of_groups_that_an_interval_takes_is_the_real_one() -> None:
    (finding,) = [f for f in audit_pairs(GOOD[:50]) if f.check == "groups"]
    assert "100 where `fit` holds a fifth out" in finding.message
    assert "20 with `compare`" in finding.message
