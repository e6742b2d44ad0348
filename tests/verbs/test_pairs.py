"""Making pairs, against a real server on loopback that speaks the OpenAI protocol: nothing lost, nothing asked twice."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from chat_server import Server, kept

from probe.cli import main
from probe.data.rows import StoryPrompt, TextPair, read_rows
from probe.errors import ProbeError
from probe.lm.chat import Endpoint, Keep, endpoint_ask, read_answer, spoken
from probe.lm.frozen import FrozenLM
from probe.lm.replies import ReplyLog
from probe.lm.spec import LMSpec
from probe.verbs.pairs import NEGATE, sort_replies

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


def test_a_model_answers_both_sides_of_pairs_and_a_second_run_writes_nothing_anew(
    here: Path, tiny_lm_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [
        {"creative": f"Tell of lamp {i}, singing.", "uncreative": f"Tell of lamp {i}.", "group": f"g{i}"}
        for i in range(5)
    ]
    Path("given.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in given))
    respond = ["pairs", "--respond=true", "--input=given.jsonl", "--output=own.jsonl", "--max_new_tokens=6"]
    assert main([*respond, "--lm.model", str(tiny_lm_folder), "--lm.device=cpu"]) == 0
    pairs = read_rows("own.jsonl", TextPair)
    assert [(p.creative, p.uncreative, p.group) for p in pairs] == [tuple(pair.values()) for pair in given]
    lm = FrozenLM.load(LMSpec(str(tiny_lm_folder), device="cpu"))
    sides = [side for p in pairs for side in (p.creative, p.uncreative)]
    answers = [side for p in pairs for side in (p.response_creative, p.response_uncreative)]
    assert answers == lm.generate(sides, 6, 0.7, 0)

    monkeypatch.setattr(FrozenLM, "generate", None)
    assert main([*respond, "--lm.model", str(tiny_lm_folder), "--lm.device=cpu"]) == 0
    assert read_rows("own.jsonl", TextPair) == pairs


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
    monkeypatch.setenv("MY_API_KEY", "sk-very-secret")
    assert main(command(server, "--endpoint.key_variable", "MY_API_KEY")) == 0
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
    from probe.lm.spec import LMSpec

    lm = FrozenLM.load(LMSpec(str(tiny_lm_folder)))
    server.reply = lambda question: lm.generate([question], 12, 0.0, 0)[0]
    settings = ("--temperature", "0", "--max_new_tokens", "12", "--longest", "99")
    asked_there = main(command(server, *settings, "--endpoint.workers", "1"))
    Path("pairs.jsonl.replies.db").rename("there.db")
    asked_here = main((*command(server)[:5], "--lm.model", str(tiny_lm_folder), *settings))
    assert asked_there == asked_here
    assert kept("there.db") == kept("pairs.jsonl.replies.db")


class Asked:
    """A model that answers each question as it is told to, and remembers what it was asked."""

    def __init__(self, **replies: str) -> None:
        self.replies, self.questions = replies, list[str]()

    def __call__(self, prompts: Sequence[str], keep: Keep) -> None:
        for prompt in prompts:
            self.questions.append(prompt)
            keep(prompt, self.replies.get(prompt, prompt.upper()))


def test_what_was_answered_is_never_asked_again_under_the_same_settings(tmp_path: Path) -> None:
    path, ask = tmp_path / "replies.db", Asked()
    assert ReplyLog(path, "-").ask_all(["a", "b", "a"], ask, "s") == ["A", "B", "A"]
    assert ReplyLog(path, "-").ask_all(["c", "a"], ask, "s") == ["C", "A"]
    assert ask.questions == ["a", "b", "c"]
    ReplyLog(path, "-").ask_all(["a"], ask, "another temperature")
    assert ask.questions == ["a", "b", "c", "a"]


@pytest.mark.parametrize("bad", ["", " \n", "<think>Should I name the first", "<think>Hm.</think>\n"])
def test_a_reply_that_says_nothing_is_not_kept_and_one_that_was_kept_is_asked_again(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "replies.db"
    log = ReplyLog(path, "-")
    assert log.ask_all(["a", "b"], Asked(a=bad), "s")[1] == "B"
    assert kept(path) == {"b": "B"}
    assert log.ask_all(["a", "b"], again := Asked(), "s") == ["A", "B"]
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("UPDATE replies SET reply = ? WHERE prompt = 'a'", (bad,))
        file.execute("UPDATE replies SET reply = NULL WHERE prompt = 'b'")
    assert log.ask_all(["a", "b"], again, "s") == ["A", "B"]
    assert again.questions == ["a", "a", "b"]
    assert kept(path) == {"a": "A", "b": "B"}


def test_thoughts_are_left_out_of_replies() -> None:
    assert spoken("A plain reply.") == "A plain reply."
    assert spoken("<think>B or A?\nB is longer.</think>\n\nA").strip() == "A"
    assert spoken("a template may have opened it</think> B").strip() == "B"
    assert spoken("<think>one</think> A <think>two</think> B").strip() == "B"
    assert spoken("[THINK]B or A?[/THINK] A").strip() == "A" and not spoken("[THINK]without an end: A")
    assert spoken("<think>without an end: A") == spoken("<think>one</think> A, but <think>") == ""


def test_a_think_block_does_not_become_the_uncreative_prompt(here: Path, server: Server) -> None:
    good = server.reply
    server.reply = lambda question: f"<think>The user wants {question}</think>\n{good(question)}"
    assert main(command(server)) == 0
    assert [pair.uncreative for pair in read_rows("pairs.jsonl", TextPair)] == [good(prompt) for prompt in PROMPTS]


ODD = {
    "an empty object": b"{}",
    "a list": b'[{"choices": []}]',
    "an integer": b"7",
    "null": b"null",
    "a web page": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "choices that are none": b'{"choices": [1]}',
    "an error that says 200": b'{"error": {"message": "no credit"}}',
    "deep brackets": b"[" * 100_000,
    "no UTF-8": b"\xff\xfe\x00",
}
EMPTY = {
    "no choices": b'{"choices": []}',
    "no content": b'{"choices": [{"message": {"role": "assistant", "content": null}}]}',
    "a number": b'{"choices": [{"message": {"content": 5}}]}',
    "spaces": b'{"choices": [{"message": {"content": "  "}}]}',
}


@pytest.mark.parametrize("kind", ODD)
def test_an_endpoint_that_is_none_ends_in_one_sentence_and_poisons_no_later_run(
    here: Path, server: Server, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server.body = lambda question: ODD[kind] if PROMPTS[5] in question else None
    assert main(command(server)) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"error: {server.url}: expected a chat completion, found ")
    assert not [prompt for prompt in kept("pairs.jsonl.replies.db") if PROMPTS[5] in prompt]
    server.body = lambda question: None
    assert main(command(server)) == 0
    assert len(read_rows("pairs.jsonl", TextPair)) == 12


@pytest.mark.parametrize("kind", EMPTY)
def test_an_answer_without_text_is_an_empty_reply_that_is_asked_again_the_next_time(
    here: Path, server: Server, kind: str
) -> None:
    server.body = lambda question: EMPTY[kind] if PROMPTS[5] in question else None
    assert main(command(server)) == 0
    assert len(read_rows("pairs.jsonl", TextPair)) == 11
    assert "empty" in Path("pairs.jsonl.rejected.jsonl").read_text()
    server.body = lambda question: None
    assert main(command(server)) == 0
    assert len(read_rows("pairs.jsonl", TextPair)) == 12
    assert {q.splitlines()[-1]: n for q, n in server.asked.items() if n > 1} == {PROMPTS[5]: 2}


def test_half_of_a_surrogate_pair_in_an_answer_is_replaced(here: Path, server: Server) -> None:
    reply = server.reply(PROMPTS[5]).replace("lamp", "lamp\ud800", 1)
    body = json.dumps({"choices": [{"message": {"content": reply}}]})
    server.body = lambda question: body.encode() if PROMPTS[5] in question else None
    assert main(command(server)) == 0
    assert "lamp?" in read_rows("pairs.jsonl", TextPair)[5].uncreative


def test_the_time_out_is_that_of_the_whole_answer_though_each_byte_comes_in_time(
    here: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.drip = 0.05  # of some 200 bytes: ten seconds
    few = ("--endpoint.timeout", "0.3", "--endpoint.retries", "1", "--endpoint.workers", "1")
    assert main(command(server, *few)) == 2
    assert "no answer after 1 retries" in capsys.readouterr().err
    assert list(server.asked.values()) == [2]


@pytest.mark.faults
def test_ctrl_c_ends_the_wait_for_an_endpoint_that_hangs(here: Path, server: Server) -> None:
    server.pause = 60.0
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    run = subprocess.Popen(
        [sys.executable, "-m", "probe", *command(server)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=heed,
    )
    while len(server.asked) < 4 and run.poll() is None:
        time.sleep(0.02)
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=30)  # less than half of the pause, and more than a busy machine needs
    assert run.returncode == 130
    assert err.startswith(b"\nstopped; what was finished is kept. To go on: probe pairs ")
    assert err.count(b"\n") == 2  # and no traceback


def test_a_file_that_is_no_reply_log_is_refused_before_anything_is_asked(
    here: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("pairs.jsonl.replies.db").write_text('{"key": "of an earlier version"}\n' * 40)
    assert main(command(server)) == 2
    assert "pairs.jsonl.replies.db: cannot keep replies there (file is not a database)" in capsys.readouterr().err
    assert not server.asked


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
    run = subprocess.Popen(words, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])})
    deadline = time.monotonic() + 60
    while sum(server.asked.values()) < 7 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    assert 4 <= len(kept("pairs.jsonl.replies.db")) < 12
    server.pause = 0.0
    assert main(command(server)) == 0
    assert len(read_rows("pairs.jsonl", TextPair)) == 12
    assert sum(server.asked.values()) <= 12 + 2
    assert sum(n == 1 for n in server.asked.values()) >= 10


@pytest.mark.parametrize(
    "url",
    ["http://[::1", "http://localhost:99999/v1", "http://localhost:x/v1", "localhost:1", "file:///etc/passwd", ""],
)
def test_an_address_that_no_request_could_go_to_is_refused_before_anything_is_asked(url: str) -> None:
    with pytest.raises(ProbeError, match=r"--endpoint.url: expected an address"):
        endpoint_ask(Endpoint("m", url), 9, 0.0, 0)


@pytest.mark.parametrize("key", ["schl\u00fcssel", "a\nb", "a\0b"])
def test_a_key_that_no_header_could_hold_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setattr("os.environ", {"OPENAI_API_KEY": key})
    with pytest.raises(ProbeError, match="OPENAI_API_KEY: expected a key of printable ASCII") as refusal:
        endpoint_ask(Endpoint("m"), 9, 0.0, 0)
    assert key not in str(refusal.value)


def test_a_reply_in_parts_is_no_empty_reply() -> None:
    with pytest.raises(ProbeError, match="expected a chat completion"):
        read_answer('{"choices": [{"message": {"content": [{"type": "text", "text": "A hen."}]}}]}', "there")
    for nothing in (
        '{"choices": [{"message": {"content": null}}]}',
        '{"choices": [{"message": {}}]}',
        '{"choices": []}',
    ):
        assert read_answer(nothing, "there") == ""
