"""A witness says named measures of texts; who shares model and direction with the steering is none."""

import csv
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from chat_server import Server

from probe.cli import main
from probe.directions.direction import Direction
from probe.errors import ProbeError
from probe.lm.chat import Endpoint
from probe.lm.frozen import FrozenLM
from probe.metrics.texts import SURFACE, surface_features
from probe.runs.run import load
from probe.steering.settings import Witnessed
from probe.steering.witness import Case, Exhibit, Witness, hear, meet, told_by
from probe.steering.witnesses import witnesses
from probe.storyteller.storyteller import Oracle

PLAIN = "Rain fell on the town."
TEXTS = [
    Exhibit("Write.", PLAIN, PLAIN),
    Exhibit("Write.", 'Rain, rain, "rain".', PLAIN),
    Exhibit("Tell me of a lamp.", "The lamp stood on the old table.", "A lamp."),
    Exhibit("Sing.", "La la.", None),
]
RUN = "scorer:probe/version_0"
PLUGIN = """
def loud(written):
    return {"loud": [one.text.count("e") for one in written]}

class Long:
    tells = "long"
    def __call__(self, written):
        return {"long": [len(one.text) for one in written]}

def twice(h, v):
    return h + 2 * v
"""


def called(*names: str, endpoint: Endpoint | None = None) -> list[Witness]:
    return witnesses(Witnessed([*names], endpoint))


def said(*of: Witness, texts: Sequence[Exhibit] = TEXTS) -> list[dict[str, float]]:
    return hear(of, texts, ("score",))


def test_the_storyteller_says_what_the_oracle_reads_and_tells() -> None:
    (witness,) = called("storyteller")
    text = "The lamp sang. Xyz."
    (found,) = said(witness, texts=[Exhibit("Write.", text, None)])
    reading = Oracle().read(text, "Write.")
    assert found["well_formed_share"] == reading.well_formed_share
    assert set(found) == {"inventive_share", "well_formed_share", "named_share"}
    assert told_by([witness]) == "inventive_share"


def test_the_surface_is_seven_features_and_their_distance_from_the_plain_text_of_the_prompt_and_tells_nothing() -> None:
    (witness,) = called("surface")
    found = said(witness)
    for one, features in zip(TEXTS, found, strict=True):
        assert [features[name] for name in SURFACE] == surface_features(one.text)
    assert found[0]["surface_distance"] == 0
    assert math.isnan(found[3]["surface_distance"])
    spread = np.std([surface_features(PLAIN), surface_features("A lamp.")], axis=0)
    apart = np.subtract(surface_features(TEXTS[1].text), surface_features(PLAIN)) / np.where(spread == 0, 1, spread)
    assert found[1]["surface_distance"] == pytest.approx(np.sqrt((apart**2).mean()))
    assert told_by([witness]) == "score"
    assert told_by(called("surface", "storyteller")) == "inventive_share"


def test_two_measures_of_one_name_and_too_few_numbers_are_refused() -> None:
    def constant(n: int, name: str) -> Witness:
        return lambda written: {name: [0.0] * n}

    for of in ([constant(4, "score")], [constant(4, "x"), constant(4, "x")], [constant(3, "x")]):
        with pytest.raises(ProbeError, match="expected each measure once, of 4 texts"):
            said(*of)


def test_an_endpoint_prefers_a_text_to_the_plain_one_or_not_and_is_never_asked_twice(server: Server) -> None:
    def longer(question: str) -> str:
        sides = [question.partition(f"=== Text {x} ===")[2].partition("=== End")[0].strip() for x in "AB"]
        return "AB"[len(sides[1]) > len(sides[0])] if "Which text is more formal?" in question else "A"

    server.reply = longer
    (witness,) = called("endpoint", endpoint=Endpoint("m", server.url))
    meet([witness], Case(None, None, "formal"))  # type: ignore[arg-type]
    empty = Exhibit("Write.", "", PLAIN)
    found = [one["preferred_share"] for one in said(witness, texts=[*TEXTS, Exhibit("Write.", "Rain.", PLAIN), empty])]
    assert found[:3] + found[4:5] == [0.5, 0.0, 1.0, 0.0]
    assert math.isnan(found[3])
    assert math.isnan(found[5])
    said(witness)
    assert set(server.asked.values()) == {1}
    assert told_by([witness]) == "preferred_share"
    with pytest.raises(ProbeError, match="expected its endpoint beside it"):
        called("endpoint")


@pytest.fixture
def here(fitted: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """In the folder of a fit; the words that name its data."""
    folder, files = fitted
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    Path("my_witnesses.py").write_text(PLUGIN)
    return [f"--data.{name}={path}" for name, path in files.items()]


def test_a_saved_scorer_is_welcome_on_another_model_and_scores_as_its_run_does(
    here: list[str], make_lm: Callable[..., FrozenLM]
) -> None:
    (witness,) = called(RUN)
    run = load("probe/version_0")
    meet([witness], Case(make_lm(seed=1), run.direction, "creative"))
    texts = [*TEXTS, Exhibit("Write.", " ", PLAIN)]
    found = [one[told_by([witness])] for one in said(witness, texts=texts)]
    assert found[:4] == pytest.approx(run.score([run.passage(one.text, one.prompt) for one in TEXTS]))
    assert math.isnan(found[4])


def test_a_saved_scorer_that_shares_model_and_direction_is_refused_and_one_that_shares_the_model_is_shown_alone(
    here: list[str],
) -> None:
    (witness,) = called(RUN)
    run = load("probe/version_0")
    with pytest.raises(ProbeError, match=r"found both shared \(cosine 1.00\)"):
        meet([witness], Case(run.lm, run.direction, "creative"))
    turned = torch.nn.functional.normalize(run.direction.vectors.roll(1, 1) - run.direction.vectors, dim=1)
    another: Direction = replace(run.direction, vectors=turned)
    meet([witness], Case(run.lm, another, "creative"))
    assert told_by([witness]) == "score"
    assert "scorer_probe_version_0" in said(witness)[0]


def test_a_witness_that_is_none_is_refused_before_anything_is_written(
    here: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(FrozenLM, "generate", lambda *_, **__: pytest.fail("a text was written"))
    for name, says in (
        (RUN, "found both shared"),
        ("surfce", "did you mean surface"),
        ("os.system", "--plugin os admits others"),
        ("my_witnesses.loud", "--plugin my_witnesses admits others"),
        ("scorer:nowhere", "expected a run with"),
    ):
        for verb in ("sweep", "stories"):
            assert main([verb, *here, f"--witness={name}"]) == 2
            assert says in " ".join(capsys.readouterr().err.split())
    fit = ["fit", "--config=fit.yaml", "--steering.n_prompts=1", "--witness=surfce"]
    assert main(fit) == 2
    assert "did you mean surface" in capsys.readouterr().err


def test_figures_tables_and_files_hold_the_measures_of_every_witness_and_a_plugins_operator_steers(
    here: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    by = [
        "--plugin=my_witnesses",
        "--witness",
        "my_witnesses.loud",
        "--witness=my_witnesses.Long",
        "--witness",
        "surface",
    ]
    by += ["--operator", "my_witnesses.twice"]
    small = ["--n_prompts=2", "--n_test_prompts=3", "--n_random=1", "--steering.max_new_tokens=4", "--strengths=[1.0]"]
    assert main(["sweep", *here, *by, *small]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "By the witness (long)" in printed
    assert "surface distance" in printed
    run = Path("lightning_logs/sweep/version_0")
    with (run / "sweep.csv").open() as file:
        assert {"loud", "long", "surface_distance"} <= set(next(csv.DictReader(file)))
    for line in (run / "texts.jsonl").read_text().splitlines():
        record = json.loads(line)
        assert (record["loud"], record["long"]) == (record["text"].count("e"), len(record["text"]))
    folder = Path("lightning_logs/probe/version_0/direction")
    recommended = Direction.load(folder).recommended
    assert recommended.operator == "my_witnesses.twice"
    generate = ["generate", "Write.", "--output=texts.jsonl", "--max_new_tokens=4"]
    assert main(generate) == 2  # the plugin that the direction recommends is not admitted
    assert main([*generate, "--plugin=my_witnesses"]) == 0
    texts = [json.loads(line)["text"] for line in Path("texts.jsonl").read_text().splitlines()]
    twice = [f"--strength={2 * recommended.strength}", f"--strength_unit={recommended.unit}", "--operator=plus"]
    assert main([*generate, *twice]) == 0
    assert [json.loads(line)["text"] for line in Path("texts.jsonl").read_text().splitlines()] == texts


def test_the_steering_of_a_fit_takes_operator_tokens_layer_and_a_list_of_witnesses_from_its_config(
    here: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    steering = {"n_prompts": 2, "max_new_tokens": 4, "strengths": [1.0], "strength_unit": "gap", "layer": [0, 1]}
    steering |= {"witness": ["surface", "my_witnesses.Long"], "operator": "clamp", "tokens": "generated"}
    Path("more.yaml").write_text(json.dumps({"steering": steering}))
    words = ["--config=fit.yaml", "--config=more.yaml", "--trainer.enable_progress_bar=false"]
    words += ["--trainer.logger.init_args.name=witnessed"]
    assert main(["fit", "--plugin=my_witnesses", *words]) == 0
    assert ", long " in capsys.readouterr().out
    run = Path("lightning_logs/witnessed/version_0")
    records = [json.loads(line) for line in (run / "steering.jsonl").read_text().splitlines()]
    assert {record["strength"] for record in records} == {0.0, 1.0}
    assert all(record["long"] == len(record["text"]) for record in records)
    curves = json.loads((run / "metrics.json").read_text())["steering"]["curves"]
    assert {"long", "surface_distance", "moved_wrong"} <= set(curves)
