"""A server on loopback that speaks the OpenAI protocol, for the tests of what asks models."""

import json
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def kept(log: str | Path) -> dict[str, str]:
    """Question -> reply of a reply log, in the order of writing."""
    with closing(sqlite3.connect(log)) as replies:
        return dict(replies.execute("SELECT prompt, reply FROM replies ORDER BY rowid"))


class Server(ThreadingHTTPServer):
    """Answers chat completions with `reply(question)`; `fail(question, n)` may give a status for its n-th asking first.

    `body(question)` may give bytes to answer instead, and `drip` is a pause in seconds before each byte.
    """

    daemon_threads = True

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.keys: set[str | None] = set()
        self.reply: Callable[[str], str] = lambda question: question.splitlines()[-1].replace(
            "eat the night", "light the hall"
        )
        self.fail: Callable[[str, int], int] = lambda question, n: 0
        self.body: Callable[[str], bytes | None] = lambda question: None
        self.pause = self.drip = 0.0
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        assert self.path == "/v1/chat/completions"
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = body["messages"][-1]["content"]
        self.server.asked[question] += 1
        self.server.keys.add(self.headers["Authorization"])
        status = self.server.fail(question, self.server.asked[question])
        if status == 408:
            time.sleep(1.0)
        time.sleep(self.server.pause)
        message = {"role": "assistant", "content": self.server.reply(question)}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        answer = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice]}
        text = json.dumps({"error": {"message": "busy"}} if status else answer).encode()
        text = self.server.body(question) or text
        try:
            self.send_response(status or 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.send_header("retry-after-ms", "10")
            self.end_headers()
            for part in [text] if not self.server.drip else map(bytes, zip(text, strict=True)):
                time.sleep(self.server.drip)
                self.wfile.write(part)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client gave up waiting, as it should

    def log_message(self, format: str, *args: object) -> None:
        pass
