"""serve: the official client gets what the library writes, whoever else is asking; nobody gets in, or too much, unasked."""

import asyncio
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from tiny import n_hooks, widths, wordy

from probe.cli import main
from probe.directions.direction import Direction, random_directions
from probe.lm.frozen import FrozenLM
from probe.lm.open_batch import OpenBatch
from probe.lm.spec import LMSpec
from probe.lm.writing import write
from probe.runs.run import Run
from probe.steering.arms import Arm, steering
from probe.steering.settings import Sampling, Steering
from probe.verbs.serve.api import make_app
from probe.verbs.serve.asked import CompletionRequest, ScoreRequest, Writing
from probe.verbs.serve.engine import Engine
from probe.verbs.serve.gate import MOST_BYTES, Gate
from probe.verbs.serve.page import OPEN_FILES
from probe.verbs.serve.server import Server, bound
from probe.verbs.serve.service import Limits, Service
from probe.verbs.serve.steering import within

PROMPT = "Tell me of a grey hen and of the sea."
ONE, OTHER = "probe/version_0", "try/version_3"
LIMITS = Limits(1000, 400)


def direction_in(lm: FrozenLM, seed: int = 0, of: str = "folder/tiny.gguf", **made: Any) -> Direction:
    """Of layers 0 and 1 of three, with layer 1 chosen, and a dose that is known."""
    return Direction(
        vectors=random_directions(1, (0, 1), lm.hidden_size, seed)[0],
        layers=(0, 1),
        residual_gap=torch.tensor([1.5, 3.0]),
        residual_norm=torch.tensor([5.0, 7.0]),
        score_midpoint=torch.tensor([0.1, 0.2]),
        score_gap=torch.ones(2),
        chosen=1,
        provenance={"method": "mean difference", "lm": of, "lm_dtype": "float32", "span": "response"}
        | {"lm_fingerprint": lm.fingerprint, "dose": {"kl": 0.25, "of_layer": {"0": 2.0, "1": 3.0}}, "concept": "hens"}
        | made,
    )


@pytest.fixture(scope="module")
def lm(make_lm: Callable[..., FrozenLM]) -> FrozenLM:
    """The model that is served."""
    return wordy(make_lm(model="folder/tiny.gguf", device="cpu"))


@pytest.fixture(scope="module")
def twin(make_lm: Callable[..., FrozenLM]) -> FrozenLM:
    """The same model, which no server has its hooks on."""
    return wordy(make_lm(model="folder/tiny.gguf", device="cpu"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lm: FrozenLM) -> Path:
    """A working folder with two runs of one model, one run of another, and a file that is no run."""
    monkeypatch.chdir(tmp_path)
    logs = Path("lightning_logs")
    direction_in(lm).save(logs / ONE / "direction")
    direction_in(lm, 1).save(logs / OTHER / "direction")
    direction_in(lm, 2, lm_fingerprint="another").save(logs / "probe/version_9/direction")
    (logs / "broken/version_0/direction").mkdir(parents=True)
    (logs / "broken/version_0/direction/direction.json").write_text("{")
    return tmp_path


def run_of(lm: FrozenLM, name: str = ONE) -> Run:
    run = Run(Path("lightning_logs") / name)
    run.__dict__["lm"] = lm
    return run


@dataclass
class Served:
    """A server under way, in a thread of its own."""

    url: str
    service: Service
    engine: Engine
    server: Server
    thread: threading.Thread
    log: list[str] = field(default_factory=list)

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=60)

    def chat(self, prompt: str = PROMPT, client: openai.OpenAI | None = None, **options: Any) -> Any:
        messages = options.pop("messages", [{"role": "user", "content": prompt}])
        options = {"model": "tiny", "max_tokens": 12, "temperature": 0} | options
        return (client or self.client).chat.completions.create(messages=messages, **options)

    def say(self, line: str) -> None:
        self.log.append(line)

    def raw(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Status and JSON of a request as no client would make it."""
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=60)
        headers = {"Content-Type": "application/json"} | {k.replace("_", "-"): v for k, v in headers.items()}
        connection.request(method, path, json.dumps(body) if isinstance(body, dict) else body, headers)
        answer = connection.getresponse()
        found = answer.read()
        connection.close()
        return answer.status, json.loads(found) if found[:1] in (b"{", b"[") else found

    def refusal(self, **options: Any) -> openai.APIStatusError:
        with pytest.raises(openai.APIStatusError) as refused:
            self.chat(**options)
        return refused.value


@pytest.fixture
def serve(here: Path, lm: FrozenLM) -> Iterator[Callable[..., Served]]:
    """Starts servers; at the end none is left, nor any hook on the model."""
    before, begun = n_hooks(lm.model), []

    def start(
        rows: int = 8, waiting: int = 64, grace: float = 5.0, token: str | None = None,
        limits: Limits = LIMITS, strength: float | None = None, **said: Any,
    ) -> Served:  # fmt: skip
        service = Service(run_of(lm), Steering(**({"max_new_tokens": 12} | said)), strength, limits)
        engine = Engine(OpenBatch(lm, rows, lambda lines, part: within(lm, lines, part)), waiting)
        listening = bound("127.0.0.1", 0)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        served = Served(url, service, engine, None, None)  # type: ignore[arg-type]
        names = {"127.0.0.1", "localhost"}
        served.server = Server(Gate(make_app(service, engine), served.say, token, names, OPEN_FILES), engine, grace)
        served.thread = threading.Thread(target=served.server.run, args=([listening],), daemon=True)
        served.thread.start()
        begun.append(served)
        while not served.server.started:
            time.sleep(0.01)
        return served

    yield start
    for served in begun:
        served.server.should_exit = True
        served.thread.join(20)
        assert not served.thread.is_alive()
        assert served.engine.join(5)
    assert n_hooks(lm.model) == before


@pytest.fixture
def endless(lm: FrozenLM, twin: FrozenLM) -> Iterator[None]:
    """No text ends by itself, and each pass of the served model takes 10 ms more."""
    hook = lm.model.register_forward_pre_hook(lambda *_: time.sleep(0.01))
    ends = lm.model.generation_config.eos_token_id
    for one in (lm, twin):
        one.model.generation_config.eos_token_id = None
    yield
    for one in (lm, twin):
        one.model.generation_config.eos_token_id = ends
    hook.remove()


def under_way(stream: Any) -> str:
    """What it begins with, once it is being written."""
    return next(text for chunk in stream if (text := chunk.choices[0].delta.content))


def library(lm: FrozenLM, prompt: str = PROMPT, strength: float = 1.0, n: int = 12, name: str = ONE, **how: Any) -> str:
    """What the library writes for it alone, greedily where nothing else is said."""
    unit, operator = how.pop("unit", "dose"), how.pop("operator", None)
    return run_of(lm, name).generate(prompt, strength, unit, Sampling(n, **({"temperature": 0.0} | how)), operator)


# What is written


@pytest.mark.parametrize(
    ("extra", "same"),
    [
        ({}, {}),
        ({"strength": 0}, {"strength": 0}),
        ({"strength": -2}, {"strength": -2}),
        ({"strength": 2, "strength_unit": "gap"}, {"strength": 2, "unit": "gap"}),
        ({"operator": "without"}, {"operator": "without"}),
        ({"strength": 3, "operator": "clamp"}, {"strength": 3, "operator": "clamp"}),
        ({"strength": 3, "direction": OTHER}, {"strength": 3, "name": OTHER}),
    ],
)
def test_a_reply_is_what_the_library_writes(
    serve: Callable[..., Served], twin: FrozenLM, extra: dict[str, Any], same: dict[str, Any]
) -> None:
    reply = serve().chat(extra_body=extra)
    assert reply.choices[0].message.content == library(twin, **same)
    assert reply.choices[0].message.role == "assistant"
    if extra:
        assert library(twin, **same) != library(twin)


def test_the_layer_the_temperature_and_the_seed_are_the_requests_or_else_the_servers(
    serve: Callable[..., Served], twin: FrozenLM
) -> None:
    served = serve(temperature=0.7, seed=3, strength=2.0, layer=0)
    arm = Arm("x", direction_in(twin).deltas(2.0, "dose", [0]))
    both = Arm("x", direction_in(twin).deltas(2.0, "dose", [0, 1]))

    def of_arm(arm: Arm, temperature: float, seed: int) -> str:
        return twin.write([PROMPT], 12, temperature, seed, within=steering(twin, [arm], "all"))[0].text

    usual = served.chat(temperature=openai.omit)
    assert usual.choices[0].message.content == of_arm(arm, 0.7, 3)
    said = {"strength": 2.0, "strength_unit": "dose", "layer": 0, "operator": "plus", "direction": ONE}
    assert usual.steering == said | {"temperature": 0.7, "seed": 3}
    told = served.chat(temperature=1.5, seed=4, extra_body={"layer": [0, 1], "strength": 2})
    assert told.choices[0].message.content == of_arm(both, 1.5, 4) != of_arm(arm, 1.5, 4)


@pytest.mark.parametrize("tokens", ["all", "prompt", "generated"])
def test_the_tokens_that_a_direction_recommends_are_steered_and_no_others(
    serve: Callable[..., Served], twin: FrozenLM, tokens: str
) -> None:
    found = serve(tokens=tokens).chat(extra_body={"strength": 3}).choices[0].message.content
    texts = {t: library(twin, strength=3, tokens=t) for t in ("all", "prompt", "generated")}
    assert found == texts[tokens]
    assert len(set(texts.values())) == 3


def test_the_number_of_tokens_and_why_it_ended_are_true(serve: Callable[..., Served], twin: FrozenLM) -> None:
    served = serve()
    n_prompt = len(twin.encoder.ids([twin.encoder.render(PROMPT)])[0])
    ends = set()
    for n in (1, 5, 390):
        reply = served.chat(max_tokens=n, extra_body={"strength": 2})
        (new,) = write(
            twin.model, twin.encoder.ids([twin.encoder.render(PROMPT)]), twin.encoder.pad_id, n, None,
            within=steering(twin, [Arm("x", direction_in(twin).deltas(2.0, "dose", [1]))], "all"),
        )  # fmt: skip
        usage = reply.usage
        assert (usage.prompt_tokens, usage.completion_tokens) == (n_prompt, len(new.ids))
        assert usage.total_tokens == n_prompt + len(new.ids)
        ends.add(reply.choices[0].finish_reason)
        assert reply.choices[0].finish_reason == ("stop" if new.ended else "length")
    assert ends == {"stop", "length"}


def test_a_stream_is_the_same_text_in_pieces_and_ends_with_the_reason_and_the_number_of_tokens(
    serve: Callable[..., Served],
) -> None:
    served = serve()
    whole = served.chat(extra_body={"strength": 2})
    chunks = list(served.chat(stream=True, stream_options={"include_usage": True}, extra_body={"strength": 2}))
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == whole.choices[0].message.content
    assert sum(bool(delta.content) for delta in deltas) > 3
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason
    assert (chunks[-1].choices, chunks[-1].usage) == ([], whole.usage)
    assert {chunk.id for chunk in chunks} == {chunks[0].id} != {whole.id}
    assert chunks[0].steering == whole.steering
    assert not any(chunk.usage for chunk in served.chat(stream=True))


def test_a_bare_text_is_continued_as_it_stands(serve: Callable[..., Served], twin: FrozenLM) -> None:
    served = serve()
    arm = Arm("x", direction_in(twin).deltas(2.0, "dose", [1]))
    (new,) = write(
        twin.model,
        [twin.encoder.bare_ids("of rain")],
        twin.encoder.pad_id,
        12,
        None,
        within=steering(twin, [arm], "all"),
    )
    asked = {"model": "tiny", "prompt": "of rain", "max_tokens": 12, "temperature": 0, "extra_body": {"strength": 2}}
    reply = served.client.completions.create(**asked)
    assert reply.choices[0].text == twin.tokenizer.decode(new.ids)
    assert (
        reply.usage.prompt_tokens
        == len(twin.encoder.bare_ids("of rain"))
        < len(twin.encoder.ids([twin.encoder.render("of rain")])[0])
    )
    pieces = [chunk.choices[0].text for chunk in served.client.completions.create(**asked, stream=True)]
    assert "".join(pieces) == reply.choices[0].text
    prepared = served.service.completion(CompletionRequest(model="tiny", prompt="of rain"))
    assert [prepared.text.add(token) for token in twin.tokenizer(" a", add_special_tokens=False)["input_ids"]] == [
        " ",
        "a",
    ]


def test_a_text_ends_before_a_stop_and_its_place_is_free(serve: Callable[..., Served], twin: FrozenLM) -> None:
    served, text = serve(rows=1), library(twin, n=40)
    stop = text[2:4]
    reply = served.chat(max_tokens=40, stop=[stop])
    assert reply.choices[0].message.content == text[: text.index(stop)]
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage.completion_tokens == text.index(stop) + 2
    assert served.chat().choices[0].message.content == library(twin)


def test_a_conversation_is_put_to_the_model_as_its_template_has_it(
    serve: Callable[..., Served], twin: FrozenLM
) -> None:
    turns = [("system", "Sing."), ("user", "a hen"), ("assistant", "It sat."), ("user", "and then")]
    messages = [{"role": role, "content": text} for role, text in turns]
    messages[1]["content"] = [{"type": "text", "text": "a "}, {"type": "text", "text": "hen"}]
    messages[0]["role"] = "developer"
    reply = serve().chat(messages=messages, extra_body={"strength": 0})
    ids = twin.encoder.ids([twin.encoder.template.conversation(turns)])
    assert reply.usage.prompt_tokens == len(ids[0])
    assert (
        reply.choices[0].message.content
        == twin._texts([write(twin.model, ids, twin.encoder.pad_id, 12, None)[0].ids])[0]
    )


# Many at once


def test_fifty_clients_at_once_get_each_its_own_text_whatever_the_others_ask_for(
    serve: Callable[..., Served], lm: FrozenLM, twin: FrozenLM
) -> None:
    served = serve(rows=16)
    strengths = cycle([-3.0, -1.0, 0.0, 1.0, 2.5, 4.0])
    asked = [(f"{'Tell ' * (i % 7)}of hen {i}.", next(strengths), 10 + i % 23) for i in range(50)]

    async def one(client: openai.AsyncOpenAI, i: int) -> tuple[str, str]:
        prompt, strength, n = asked[i]
        await asyncio.sleep(0.004 * i)  # they come while others are being written
        messages = [{"role": "user", "content": prompt}]
        options = {"model": "tiny", "messages": messages, "max_tokens": n, "temperature": 0}
        reply: Any = await client.chat.completions.create(
            **options, extra_body={"strength": strength}, stream=i % 3 > 0
        )
        if not i % 3:
            return reply.choices[0].message.content, reply.choices[0].finish_reason
        chunks = [chunk async for chunk in reply]
        return "".join(c.choices[0].delta.content or "" for c in chunks), chunks[-1].choices[0].finish_reason

    async def all_of_them() -> list[tuple[str, str]]:
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(one(client, i) for i in range(50)))

    found: list[tuple[str, str]] = []
    shapes = widths(lm, lambda: found.extend(asyncio.run(all_of_them())))
    assert [text for text, _ in found] == [library(twin, prompt, strength, n) for prompt, strength, n in asked]
    assert {reason for _, reason in found} == {"stop", "length"}
    assert max(rows for rows, _ in shapes) > 8
    assert len(served.log) == 50
    assert not served.engine.batch.lines


def test_whoever_leaves_frees_a_place(serve: Callable[..., Served], lm: FrozenLM, endless: None) -> None:
    served = serve(rows=1)
    impatient = served.client.with_options(timeout=0.3)

    def work() -> None:
        stream = served.chat(max_tokens=400, stream=True)
        under_way(stream)
        with pytest.raises(openai.APITimeoutError):
            served.chat(client=impatient, max_tokens=400)  # it waits, and gives up waiting
        stream.close()
        assert len(served.chat(max_tokens=5).choices[0].message.content) == 5
        with pytest.raises(openai.APITimeoutError):
            served.chat(client=impatient, max_tokens=400)  # it is being written, and gives up
        assert len(served.chat(max_tokens=5).choices[0].message.content) == 5

    assert len(widths(lm, work)) < 400  # passes: less than any one of them would have taken
    assert sum("not finished" in line for line in served.log) == 3


def test_a_fault_of_the_model_is_told_to_those_it_befell_and_the_next_is_served(
    serve: Callable[..., Served], twin: FrozenLM, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    served = serve()
    with monkeypatch.context() as patch:
        patch.setattr(OpenBatch, "write_on", lambda *_: 1 / 0)
        refusal = served.refusal(prompt="a secret of hens")
        assert (refusal.status_code, refusal.body["type"]) == (500, "server_error")
        assert "ZeroDivisionError is a fault of probe" in refusal.body["message"]
        with pytest.raises(openai.APIError, match="ZeroDivisionError"):
            list(served.chat(stream=True))
    assert served.chat().choices[0].message.content == library(twin)
    said = capfd.readouterr().err
    assert "ZeroDivisionError" in said
    assert "secret" not in said


# What is refused


IMPOSSIBLE: list[tuple[dict[str, Any], int, str]] = [
    ({"model": "gpt-9"}, 404, "model: expected 'tiny', found 'gpt-9'; correct it."),
    ({"extra_body": {"direction": "probe/version_9"}}, 404, "expected a run with a direction of this model, found"),
    ({"extra_body": {"direction": "lightning_logs/probe/version_0"}}, 404, "did you mean probe/version_0?"),
    ({"extra_body": {"direction": "../../etc"}}, 404, "/v1/models lists them."),
    ({"extra_body": {"layer": 2}}, 400, "this direction holds layers [0, 1], found 2; choose one of those."),
    ({"extra_body": {"layer": -1}}, 400, "layer: expected 0 or more, found -1; correct it."),
    ({"extra_body": {"layer": "x"}}, 400, "layer: expected a whole number, found 'x'; correct it."),
    ({"extra_body": {"strength": "much"}}, 400, "strength: expected a number, found 'much'; correct it."),
    ({"extra_body": {"strength": 1e300}}, 400, "expected a length that float32 can hold"),
    ({"extra_body": {"strength_unit": "gap"}}, 400, "strength_unit gap: expected a strength beside it"),
    ({"extra_body": {"strength_unit": "gram"}}, 400, "expected 'dose', 'gap', 'norm' or 'absolute', found 'gram'"),
    ({"extra_body": {"operator": "pluss"}}, 400, "did you mean plus?"),
    ({"extra_body": {"operator": "os.system"}}, 400, "operator: expected one of plus, without"),
    ({"extra_body": {"operator": "without", "strength": 2}}, 400, "expected no strength beside it, found one"),
    ({"extra_body": {"strenght": 1}}, 400, "did you mean strength?"),
    ({"n": 2}, 400, "n: expected a field, or a value of it, that this server heeds, found 2; leave it out."),
    ({"logprobs": True}, 400, "logprobs: expected a field"),
    ({"max_tokens": 401}, 400, "max_tokens: expected at most 400, found 401; ask for fewer."),
    ({"max_tokens": 0}, 400, "max_tokens: expected 1 or more, found 0; correct it."),
    ({"temperature": -1}, 400, "temperature: expected 0 or more, found -1; correct it."),
    ({"seed": 2**32}, 400, "seed: expected less than 4294967296"),
    ({"stop": ["a"] * 5}, 400, "stop: expected at most 4"),
    ({"messages": []}, 400, "messages: expected 1 or more, found []"),
    ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "expected the last message to be the user's"),
    ({"messages": [{"role": "tool", "content": "x"}]}, 400, "messages.0.role: expected 'system', 'developer'"),
    ({"prompt": "hen " * 260}, 400, "expected a prompt of at most 1000 tokens, found 10"),
    ({"prompt": "hen " * 220, "max_tokens": 200}, 400, "within the model's 1024 tokens, found 8"),
]


def test_what_cannot_be_done_is_refused_in_one_sentence_in_openais_shape(serve: Callable[..., Served]) -> None:
    served = serve()
    for options, status, says in IMPOSSIBLE:
        refusal = served.refusal(**options)
        assert refusal.status_code == status, options
        assert says in refusal.body["message"], options
        assert refusal.body["type"] == "invalid_request_error"
        assert set(refusal.body) == {"message", "type", "param", "code"}
        assert "\n" not in refusal.body["message"]


def test_fields_that_change_nothing_do_no_harm(serve: Callable[..., Served], twin: FrozenLM) -> None:
    neutral = {"n": 1, "top_p": 1.0, "presence_penalty": 0, "logprobs": False, "user": "me", "tools": [], "stop": None}
    reply = serve().chat(**neutral, max_completion_tokens=5, extra_body={"response_format": {"type": "text"}})
    assert reply.choices[0].message.content == library(twin, n=5)


def test_a_prompt_that_leaves_less_room_than_is_usual_is_answered_within_it(serve: Callable[..., Served]) -> None:
    served = serve(max_new_tokens=300, limits=Limits(1024, 200))
    assert served.service._length(ask(max_tokens=None), 10) == 200
    assert served.service._length(ask(max_tokens=None), 1000) == 24


def ask(**said: Any) -> Any:
    return Writing(model="tiny", **said)


def test_bodies_that_are_none_and_addresses_that_are_none_are_refused_in_the_same_shape(
    serve: Callable[..., Served],
) -> None:
    served = serve()
    for method, path, body, headers, status, says in [
        ("POST", "/v1/chat/completions", "{", {}, 400, "expected a JSON object, but "),
        ("POST", "/v1/chat/completions", "[1]", {}, 400, "body: expected a JSON object"),
        ("POST", "/v1/chat/completions", "[" * 100_000, {}, 400, "expected"),
        ("POST", "/v1/chat/completions", None, {}, 400, "expected"),
        ("POST", "/v1/completions", {"model": "tiny", "prompt": "\ud800"}, {}, 400, "half of a surrogate pair"),
        ("POST", "/score", {"texts": ["a"], "prompt": "\ud800"}, {}, 400, "half of a surrogate pair"),
        ("POST", "/v1/completions", {"model": "tiny"}, {}, 400, "expected `prompt`, found none; give it."),
        (
            "POST",
            "/v1/completions",
            {"model": "tiny", "prompt": ["a"]},
            {},
            400,
            "prompt: expected a text, found ['a']",
        ),
        ("POST", "/score", {"texts": []}, {}, 400, "texts: expected 1 or more"),
        ("POST", "/score", {"texts": ["a"] * 65}, {}, 400, "texts: expected at most 64"),
        ("GET", "/v1/embeddings", None, {}, 404, "expected POST /v1/chat/completions or"),
        ("GET", "/v1/completions", None, {}, 405, "found GET /v1/completions"),
        ("GET", "/v1/models/gpt", None, {}, 404, "expected the model 'tiny', found 'gpt'"),
        ("POST", "/score", "x" * (MOST_BYTES + 1), {}, 413, "expected a body of at most 1,048,576 bytes"),
        ("POST", "/score", iter([b"{}"]), {"Transfer_Encoding": "chunked"}, 411, "expected a body of a stated length"),
    ]:
        found, answer = served.raw(method, path, body, **headers)
        assert (found, set(answer["error"])) == (status, {"message", "type", "param", "code"}), (path, answer)
        assert says in answer["error"]["message"], (path, answer)
    assert served.raw("GET", "/v1/models/tiny")[1]["id"] == "tiny"


def test_when_too_many_wait_the_next_is_sent_away_and_those_who_wait_are_answered(
    serve: Callable[..., Served], twin: FrozenLM, endless: None
) -> None:
    served, expected = serve(rows=1, waiting=2), library(twin)
    first, texts = served.chat(max_tokens=400, stream=True), list[str]()
    under_way(first)
    with pytest.raises(openai.APITimeoutError):
        served.chat(client=served.client.with_options(timeout=0.3))  # it gives up waiting, and counts no more
    threads = [threading.Thread(target=lambda: texts.append(served.chat().choices[0].message.content)) for _ in "ab"]
    for n, thread in enumerate(threads):
        thread.start()
        until(lambda n=n: len(served.engine._lines) == n + 1)
    refusal = served.refusal()
    assert (refusal.status_code, refusal.body["code"], refusal.body["type"]) == (429, "queue_full", "rate_limit_error")
    assert refusal.response.headers["retry-after"] == "1"
    first.close()
    for thread in threads:
        thread.join(20)
    assert texts == [expected, expected]


def until(holds: Callable[[], bool]) -> None:
    ends = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.002)


def test_a_page_of_the_web_cannot_use_it(serve: Callable[..., Served]) -> None:
    served = serve()
    own = served.url.removeprefix("http://")
    strangers = [{"Host": "evil.example"}, {"Host": "[::"}, {"Origin": "http://evil.example"}, {"Origin": "null"}]
    for headers in [*strangers, {"Origin": "http://[::"}]:
        status, answer = served.raw("GET", "/v1/models", **headers)
        assert (status, answer["error"]["type"]) == (403, "permission_error"), headers
    for headers in ({"Host": own.replace("127.0.0.1", "localhost")}, {"Origin": served.url}):
        assert served.raw("GET", "/v1/models", **headers)[0] == 200


def test_without_the_token_nothing_is_told(serve: Callable[..., Served]) -> None:
    served = serve(token="a" * 32)
    for path in ("/v1/models", "/openapi.json", "/nothing"):
        for shown in ("", "Bearer " + "a" * 31, "Bearer é"):
            status, answer = served.raw("GET", path, Authorization=shown)
            assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
    assert served.refusal().status_code == 401
    assert served.chat(client=served.client.with_options(api_key="a" * 32)).choices[0].message.content


# What else is told


def test_the_models_are_told_with_the_directions_that_were_found_in_them(serve: Callable[..., Served]) -> None:
    (model,) = serve().client.models.list().data
    assert (model.id, model.max_model_len, model.max_tokens, model.concept) == ("tiny", 1024, 400, "hens")
    assert model.directions == [{"name": name, "layers": [0, 1]} for name in (ONE, OTHER)]
    assert model.steering == {
        "direction": ONE, "operator": "plus", "layer": 1, "strength": 1.0, "strength_unit": "dose"
    }  # fmt: skip


def test_a_dose_that_is_not_known_is_measured_once(
    serve: Callable[..., Served], twin: FrozenLM, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = direction_in(twin)
    unknown.provenance.pop("dose")
    unknown.save(Path("lightning_logs") / ONE / "direction")
    asked: list[Any] = []
    solve = "probe.steering.dose.calibrate"
    monkeypatch.setattr(
        solve, lambda _lm, vectors, _texts: asked.append(list(vectors)) or {k: 3.0 - k for k in vectors}
    )
    served = serve()
    texts = [served.chat(extra_body={"layer": k, "strength": 1}).choices[0].message.content for k in (0, 1, 0, 1)]
    assert asked == [[1], [0]]
    absolute = {k: direction_in(twin).deltas(3.0 - k, "absolute", [k]) for k in (0, 1)}
    alone = [
        twin.write([PROMPT], 12, 0, 0, within=steering(twin, [Arm("x", v)], "all"))[0].text for v in absolute.values()
    ]
    assert texts == alone * 2


def test_scores_are_the_runs_own_and_the_mean_of_those_of_the_tokens(
    serve: Callable[..., Served], twin: FrozenLM
) -> None:
    served, texts = serve(), ["A hen sat by the sea.", "naïve"]
    status, found = served.raw("POST", "/score", {"texts": texts, "prompt": "Sing.", "tokens": True})
    assert status == 200
    assert [row["score"] for row in found["data"]] == pytest.approx(run_of(twin).score(texts, "Sing."), abs=1e-6)
    assert found["run"] == ONE
    assert found["midpoint"] == pytest.approx(0.2)
    for row, text in zip(found["data"], texts, strict=True):
        assert "".join(token["text"] for token in row["tokens"]) == text
        mean = sum(token["cosine"] for token in row["tokens"]) / len(row["tokens"])
        assert mean == pytest.approx(row["score"], abs=1e-5)
        assert (row["percentile"], row["truncated"]) == (None, False)
    assert "holds no scores of its training texts" in found["no_percentile"]
    (long,) = served.raw("POST", "/score", {"texts": ["hen " * 300]})[1]["data"]
    assert long["truncated"]
    assert "tokens" not in long


def test_a_fitted_run_is_served_with_its_scorer_and_its_percentiles(
    fitted: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(fitted[0])
    run = Run(Path("lightning_logs/probe/version_0"))
    service = Service(run, Steering(max_new_tokens=4, strength_unit="gap"), 2.0, Limits(100, 100))
    (found,) = service.score(ScoreRequest(texts=["Once a hen sang."]))["data"]
    (score,) = run.score(["Once a hen sang."])
    assert (found["score"], found["percentile"]) == (score, run.percentile(score))
    assert service.usual["strength_unit"] == "gap"


def test_a_line_is_logged_for_each_request_and_says_nothing_of_what_was_asked(serve: Callable[..., Served]) -> None:
    served = serve()
    secret = "a secret of hens"
    served.chat(secret, extra_body={"strength": 2})
    list(served.chat(secret, stream=True, extra_body={"strength": 0}))
    served.raw("POST", "/score", {"texts": [secret]})
    served.refusal(model=secret)
    until(lambda: len(served.log) == 4)
    first, second, third, fourth = served.log
    assert "POST /v1/chat/completions 200 +2 dose plus probe/version_0 after layer 1, " in first
    assert "200 plain, " in second
    assert "POST /score 200, " in third
    assert "POST /v1/chat/completions 404, " in fourth
    assert "secret" not in " ".join(served.log)


# The page


def test_the_page_loads_nothing_from_elsewhere_and_sets_what_a_model_says_as_text(
    serve: Callable[..., Served],
) -> None:
    served = serve(token="a" * 32)  # the page asks for it
    for path, kind in (("/", "text/html"), ("/page.js", "text/javascript"), ("/page.css", "text/css")):
        connection = http.client.HTTPConnection(served.url.removeprefix("http://"))
        connection.request("GET", path)
        answer = connection.getresponse()
        text = answer.read().decode()
        assert (answer.status, answer.headers.get_content_type()) == (200, kind)
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert not re.search(r"\w+://|src=\"?//|url\(", text)
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|\son\w+=|style=", text)
        connection.close()


def test_in_a_browser_both_texts_come_side_by_side_and_a_text_that_is_pasted_is_scored(
    serve: Callable[..., Served], twin: FrozenLM
) -> None:
    browsers = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("needs a browser")
    served, prompt, text = serve(temperature=0.0), "of <b>rain</b>", "<img src=x> A hen & é."
    with browsers.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 420, "height": 900})
        faults: list[str] = []
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(served.url)
        page.locator("#served", has_text="tiny, hens").wait_for()
        page.fill("#length", "30")
        page.focus("#strength")
        for _ in range(8):
            page.keyboard.press("ArrowRight")
        page.fill("#prompt", prompt)
        page.keyboard.press("Control+Enter")
        page.locator("#status", has_text="Done.").wait_for()
        for strength, box in ((0, "#plain"), (3, "#steered")):
            assert page.locator(box).text_content() == library(twin, prompt, strength, 30)
            assert page.locator(f"{box} span").count() > 1
        page.focus("#tab-write")
        page.keyboard.press("ArrowRight")
        page.fill("#text", text)
        page.keyboard.press("Control+Enter")
        page.locator("#status", has_text="Done.").wait_for()
        assert page.locator("#scored").text_content() == text
        (score,) = run_of(twin).score([text])
        assert f"score {score:.4f} by {ONE}" in page.inner_text("#scored-note")
        assert page.locator("img, b").count() == 0
        assert page.evaluate("() => document.documentElement.scrollWidth") == 420
        assert faults == []
        browser.close()


# How it begins and ends


def test_what_is_under_way_is_finished_when_the_server_is_told_to_end(
    serve: Callable[..., Served], twin: FrozenLM, endless: None
) -> None:
    served, expected = serve(rows=1, grace=60), [library(twin, n=n) for n in (200, 12)]
    stream, waiting = served.chat(max_tokens=200, stream=True), list[Any]()
    head = under_way(stream)
    other = threading.Thread(target=lambda: waiting.append(served.chat()))
    other.start()
    until(lambda: len(served.engine._lines) == 1)
    served.server.handle_exit(signal.SIGTERM, None)
    assert head + "".join(chunk.choices[0].delta.content or "" for chunk in stream) == expected[0]
    other.join(20)
    assert waiting[0].choices[0].message.content == expected[1]
    served.thread.join(20)
    with pytest.raises(openai.APIConnectionError):
        served.chat()


def test_what_takes_longer_than_the_grace_is_told_so(serve: Callable[..., Served], endless: None) -> None:
    served = serve(rows=1, grace=0.2)
    stream = served.chat(max_tokens=400, stream=True)
    under_way(stream)
    told: list[openai.APIStatusError] = []
    other = threading.Thread(target=lambda: told.append(served.refusal()))
    other.start()
    until(lambda: len(served.engine._lines) == 1)
    served.server.handle_exit(signal.SIGTERM, None)
    with pytest.raises(openai.APIError, match="found one that is about to end"):
        list(stream)
    other.join(20)
    assert (told[0].status_code, told[0].body["code"]) == (503, "closing")
    with pytest.raises(Exception, match="about to end"):
        served.engine.do(lambda: 1)


@pytest.fixture
def begun(here: Path, tiny_lm_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What servers would listen on; none is run. The newest direction is of the model in its folder."""
    found: list[Any] = []
    monkeypatch.setattr(Server, "run", lambda _self, sockets: found.extend(sockets))
    monkeypatch.delenv("PROBE_SERVE_TOKEN", raising=False)
    lm = FrozenLM.load(LMSpec(str(tiny_lm_folder), device="cpu"))
    direction_in(lm, of=str(tiny_lm_folder)).save(Path("lightning_logs/probe/version_10/direction"))
    yield found
    for listening in found:
        listening.close()


def test_it_says_what_it_serves_where_and_how_to_call_it(begun: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--port=0", "--strength=2", "--max_new_tokens=7"]) == 0
    said = capsys.readouterr().out
    host, port = begun[0].getsockname()
    assert host == "127.0.0.1"
    assert "Serving probe/version_10 (mean difference, hens), model tiny_lm" in " ".join(said.split())
    assert "+2 dose by `plus` after layer 1, 7 tokens at temperature 0.8" in " ".join(said.split())
    assert f"base_url http://127.0.0.1:{port}/v1" in " ".join(said.split())
    (curl,) = [line for line in said.splitlines() if line.startswith("curl ")]
    assert json.loads(curl.split(" -d '")[1].removesuffix("'"))["strength"] == 1


def test_elsewhere_than_on_this_machine_alone_a_token_is_demanded_that_no_config_can_give(
    begun: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*words: str) -> str:
        assert main(["serve", "--port=0", *words]) == 2
        return " ".join(capsys.readouterr().err.split())

    assert "--host 0.0.0.0: expected a token, since others reach this address, found none" in refused("--host=0.0.0.0")
    Path("token").write_text("short\n")
    assert "expected 16 or more letters and digits" in refused("--host=0.0.0.0", "--token_file=token")
    assert "expected a file with a token, found none" in refused("--host=0.0.0.0", "--token_file=nowhere")
    Path("token").write_text("f" * 32 + "\n")
    for name, value in (("host", "0.0.0.0"), ("token_file", "token")):
        Path("c.yaml").write_text(f"{name}: {value}\n")
        assert f"give {name} on the command line" in refused("--config=c.yaml")
    assert not begun
    assert main(["serve", "--port=0", "--host=0.0.0.0", "--token_file=token"]) == 0
    said = capsys.readouterr().out
    assert "The token is demanded of every request" in said
    assert "f" * 32 not in said
    monkeypatch.setenv("PROBE_SERVE_TOKEN", "e" * 32)
    assert "found both; leave one out" in refused("--token_file=token")
    assert main(["serve", "--port=0", "--host=0.0.0.0"]) == 0
    assert "e" * 32 not in capsys.readouterr().out


def test_an_address_that_is_taken_and_a_package_that_is_missing_are_said_in_one_sentence(
    begun: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        assert main(["serve", f"--port={other.getsockname()[1]}"]) == 2
    assert "expected a free address of this machine, found none (Address already in use)" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert main(["serve"]) == 2
    assert "found no fastapi; install them with: pip install 'lm-probe[serve]'." in capsys.readouterr().err


@pytest.mark.faults
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_order(here: Path, tiny_lm_folder: Path, how: signal.Signals) -> None:
    lm = FrozenLM.load(LMSpec(str(tiny_lm_folder), device="cpu"))
    direction_in(lm, of=str(tiny_lm_folder)).save(Path("lightning_logs/probe/version_10/direction"))
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    words = [sys.executable, "-m", "probe", "serve", "--port=0", "--max_answer_tokens=1000"]
    child = subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout
    url = next(line for line in child.stdout if "base_url" in line).split("base_url ")[1].split(",")[0]
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=9)
    name = client.models.list().data[0].id
    stream = client.chat.completions.create(
        model=name, messages=[{"role": "user", "content": "Sing."}], max_tokens=600, stream=True
    )
    next(iter(stream))
    child.send_signal(how)
    assert [chunk.choices[0].finish_reason for chunk in stream][-1] in ("stop", "length")
    out, err = child.communicate(timeout=20)
    assert (child.returncode, err) == (0, "")
    assert out.endswith("Ended: what was under way is finished, or was told.\n")
