"""Making pairs, against a real server on loopback that speaks the OpenAI protocol: nothing lost, nothing asked twice."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from chat_server import Server

from probe.chat import ReplyLog
from probe.cli import main
from probe.commands.pairs import NEGATE, sort_replies
from probe.lm import FrozenLM
from probe.rows import StoryPrompt, TextPair, read_rows

PROMPTS = [f"Write a story about a lamp that is number {i} of the lamps which eat the night." for i in range(12)]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    lines = [json.dumps({"creative": prompt, "group": f"lamp {i % 4}"}) for i, prompt in enumerate(PROMPTS)]
    Path("prompts.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def command(server: Server, *more: str) -> tuple[str, ...]:
    return (
        "pairs", "--input", "prompts.jsonl", "--output", "pairs.jsonl",
        "--endpoint.model", "m", "--endpoint.url", server.url, *more,
    )  # fmt: skip


def test_prompts_become_pairs_and_a_second_run_asks_nothing(here: Path, server: Server) -> None:
    assert main(command(server)) == 0
    pairs = read_rows("pairs.jsonl", TextPair)
    assert [pair.creative for pair in pairs] == PROMPTS
    assert all("light the hall" in pair.uncreative for pair in pairs)
    assert [pair.group for pair in pairs] == [f"lamp {i % 4}" for i in range(12)]
    written = Path("pairs.jsonl").read_bytes()
    assert main(command(server)) == 0
    assert set(server.asked.values()) == {1}
    assert Path("pairs.jsonl").read_bytes() == written


def test_rate_limits_server_errors_and_time_outs_are_tried_again(here: Path, server: Server) -> None:
    troubles = {PROMPTS[1]: 429, PROMPTS[2]: 503, PROMPTS[3]: 408}
    server.fail = lambda question, n: troubles.get(question.splitlines()[-1], 0) if n == 1 else 0
    assert main(command(server, "--endpoint.timeout", "0.5")) == 0
    assert len(read_rows("pairs.jsonl", TextPair)) == 12
    times = {question.splitlines()[-1]: n for question, n in server.asked.items()}
    assert {prompt for prompt, n in times.items() if n == 2} == set(troubles)


def test_an_endpoint_that_gives_up_ends_in_one_sentence_and_loses_no_reply(
    here: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.fail = lambda question, n: 500 if PROMPTS[7] in question else 0
    assert main(command(server, "--endpoint.retries", "1", "--endpoint.workers", "1")) == 2
    error = capsys.readouterr().err
    assert "no answer after 1 retries" in error
    assert "Traceback" not in error
    assert not Path("pairs.jsonl").exists()
    server.fail = lambda question, n: 0
    assert main(command(server)) == 0
    assert len(read_rows("pairs.jsonl", TextPair)) == 12
    assert {q.splitlines()[-1]: n for q, n in server.asked.items() if n > 1} == {PROMPTS[7]: 3}


def test_replies_that_make_no_pair_are_kept_with_the_reason(here: Path, server: Server) -> None:
    odd = {
        PROMPTS[0]: "  ",
        PROMPTS[1]: PROMPTS[1].upper(),
        PROMPTS[2]: "Write.",
        PROMPTS[3]: "Sure!\n\n" + PROMPTS[3][:-9],
    }
    good = server.reply
    server.reply = lambda question: odd.get(question.splitlines()[-1], good(question))
    assert main(command(server)) == 0
    rejected = [json.loads(line) for line in Path("pairs.jsonl.rejected.jsonl").read_text().splitlines()]
    reasons = [
        "empty",
        "says the same as the prompt",
        "1 words where the prompt has 16",
        "several lines where the prompt has one",
    ]
    assert [row["reason"] for row in rejected] == reasons
    assert [row["reply"] for row in rejected] == list(odd.values())
    assert len(read_rows("pairs.jsonl", TextPair)) == 8


def test_a_reply_in_quotation_marks_is_taken_out_of_them() -> None:
    pairs, rejects = sort_replies([StoryPrompt("Write a story of an egg.", "g")], ['"Write a story of a pier."\n'], 1.5)
    assert (pairs[0]["uncreative"], rejects) == ("Write a story of a pier.", [])


def test_the_key_comes_from_the_environment_and_stands_in_no_file(
    here: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    assert main(command(server, "--endpoint.key_variable", "MY_KEY")) == 0
    assert server.keys == {"Bearer sk-very-secret"}
    assert not [path for path in here.iterdir() if b"very-secret" in path.read_bytes()]


def test_a_dry_run_prints_the_questions_and_asks_none(
    here: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(server, "--dry_run", "true")) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert all(" ".join(NEGATE.replace("{prompt}", prompt).split()) in shown for prompt in PROMPTS)
    assert not server.asked
    assert sorted(path.name for path in here.iterdir()) == ["prompts.jsonl"]


def test_the_embedded_model_answers_over_the_protocol_what_it_answers_here(
    here: Path, server: Server, make_lm: Callable[..., FrozenLM], tiny_lm_folder: Path
) -> None:
    from probe.spec import LMSpec

    lm = FrozenLM.load(LMSpec(str(tiny_lm_folder)))
    server.reply = lambda question: lm.generate([question], 12, 0.0, 0)[0]
    settings = ("--temperature", "0", "--max_new_tokens", "12", "--longest", "99")
    asked_there = main(command(server, *settings, "--endpoint.workers", "1"))
    Path("pairs.jsonl.replies.jsonl").rename("there.jsonl")
    asked_here = main((*command(server)[:5], "--lm.model", str(tiny_lm_folder), *settings))
    assert asked_there == asked_here
    replies = [
        [json.loads(line)["reply"] for line in Path(name).read_text().splitlines()]
        for name in ("there.jsonl", "pairs.jsonl.replies.jsonl")
    ]
    assert replies[0] == replies[1]


def test_a_torn_line_is_asked_again_and_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    asked: list[str] = []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return prompt.upper()

    assert ReplyLog(path).ask_all(["a", "b", "c"], ask, "s", 1) == ["A", "B", "C"]
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    assert ReplyLog(path).ask_all(["a", "b", "c"], ask, "s", 1) == ["A", "B", "C"]
    assert asked == ["a", "b", "c", "c"]
    assert ReplyLog(path).ask_all(["c", "a"], ask, "s", 1) == ["C", "A"]
    assert len(asked) == 4
    ReplyLog(path).ask_all(["a"], ask, "another temperature", 1)
    assert len(asked) == 5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--input", "nowhere.jsonl", "--lm.model", "x"), "nowhere.jsonl: no such file"),
        (("--input", "prompts.jsonl"), "expected one model to ask"),
        (("--input", "prompts.jsonl", "--lm.model", "x", "--endpoint.model", "y"), "expected one model to ask"),
        (("--input", "prompts.jsonl", "--lm.model", "x", "--ask", "Negate it."), "--ask: expected {prompt}"),
    ],
)
def test_bad_input_ends_in_one_sentence(
    here: Path, options: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(("pairs", "--output", "pairs.jsonl", *options)) == 2
    assert said in capsys.readouterr().err


@pytest.mark.faults
def test_kill_9_loses_no_reply_and_asks_at_most_the_questions_under_way_again(here: Path, server: Server) -> None:
    server.pause = 0.3
    words = [sys.executable, "-m", "probe", *command(server, "--endpoint.workers", "2")]
    run = subprocess.Popen(words, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])})
    replies = here / "pairs.jsonl.replies.jsonl"
    deadline = time.monotonic() + 60
    while (not replies.exists() or replies.read_bytes().count(b"\n") < 4) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    kept = replies.read_bytes().count(b"\n")
    assert 4 <= kept < 12
    server.pause = 0.0
    assert main(command(server)) == 0
    assert len(read_rows("pairs.jsonl", TextPair)) == 12
    assert sum(server.asked.values()) <= 12 + 2
    assert sum(n == 1 for n in server.asked.values()) >= 10
