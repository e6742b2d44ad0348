"""Who may come in, and a line on each who came, which never holds what was asked."""

import hmac
import time
from collections.abc import Callable, Collection
from urllib.parse import SplitResult, urlsplit

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from probe.verbs.serve.refusals import Refusal
from probe.verbs.serve.replies import Reply

MOST_BYTES = 2**20
"""Of a body."""


class Gate:
    """Stands before the addresses.

    Args:
        app: The addresses.
        say: Takes a line of the log.
        token: What every request has to show, but for the open files; without one, no page of the web may make requests.
        hosts: What this machine may be called; a page of the web that had its name lead here would call it otherwise. Empty: by
            any name.
        open_files: What holds no secret and does no work.
    """

    def __init__(
        self,
        app: ASGIApp,
        say: Callable[[str], None],
        token: str | None,
        hosts: Collection[str],
        open_files: Collection[str],
    ) -> None:
        self.app, self.say, self.token, self.hosts, self.open_files = app, say, token, hosts, open_files

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or refuses it."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        began, status = time.monotonic(), 0

        async def noted(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            self._check(scope)
        except Refusal as refusal:
            await JSONResponse(refusal.body, refusal.status, refusal.headers)(scope, receive, noted)
        else:
            await self.app(scope, receive, noted)
        finally:
            reply: Reply | None = scope.get("reply")
            if reply:
                reply.leave()  # whatever became of it, it takes no place any more
            who = (scope.get("client") or ("?",))[0]
            what = _in_words(reply) if reply else ""
            now, took = time.strftime("%H:%M:%S"), time.monotonic() - began
            self.say(f"{now} {who} {scope['method']} {scope['path'][:60]} {status}{what}, {took:.2f} s")
        return None

    def _check(self, scope: Scope) -> None:
        """Raises Refusal for whom it does not let in."""
        said = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host = said.get("host", "")
        if self.hosts and _parts(f"//{host}").hostname not in self.hosts:
            raise Refusal(
                403, f"expected a request to {' or '.join(sorted(self.hosts))}, found one to {host!r}; use that name."
            )
        if not self.token and "origin" in said and _parts(said["origin"]).netloc != host:
            raise Refusal(
                403, "expected a request of this server's own page, found one of another page; it is not served."
            )
        shown = said.get("authorization", "").removeprefix("Bearer ").encode()
        if self.token and scope["path"] not in self.open_files and not hmac.compare_digest(shown, self.token.encode()):
            raise Refusal(
                401, "expected the server's token as api_key, found none or another; give it.", "invalid_api_key"
            )
        if "transfer-encoding" in said:
            raise Refusal(411, "expected a body of a stated length, found one in chunks; send Content-Length.")
        if int(said.get("content-length") or 0) > MOST_BYTES:
            raise Refusal(413, f"expected a body of at most {MOST_BYTES:,} bytes, found more; shorten it.")


def _parts(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:  # half an IPv6 address
        return urlsplit("")


def _in_words(reply: Reply) -> str:
    """How a text was steered, how long it is and how it ended."""
    told, usage = reply.told, reply.usage
    words = ["", "plain"] if "direction" not in told else [""]
    words += [f"{told['strength']:+g} {told['strength_unit']}"] if "strength_unit" in told else []
    words += [f"{told['operator']} {told['direction']} after layer {told['layer']}"] if "direction" in told else []
    end = reply.finish_reason or "not finished"
    return f"{' '.join(words)}, {usage['prompt_tokens']} + {usage['completion_tokens']} tokens, {end}"
