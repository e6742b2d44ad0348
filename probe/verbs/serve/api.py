"""The addresses: OpenAI's /v1/chat/completions, /v1/completions and /v1/models, /score, and one page to look at."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException

from probe.verbs.serve.asked import FIELDS, ChatRequest, CompletionRequest, ScoreRequest, Writing
from probe.verbs.serve.engine import Engine
from probe.verbs.serve.page import add_page
from probe.verbs.serve.refusals import Refusal, misfit
from probe.verbs.serve.replies import CHAT, COMPLETION, Reply
from probe.verbs.serve.service import Prepared, Service

ADDRESSES = ("POST /v1/chat/completions", "POST /v1/completions", "GET /v1/models", "POST /score")
CLIENT_LEFT = 499
"""As nginx calls it; nobody is there to read it."""
T = TypeVar("T")


def make_app(service: Service, engine: Engine) -> FastAPI:
    """The addresses of what is served."""
    app = FastAPI(title="probe", docs_url=None, redoc_url=None)  # their pages would load scripts from elsewhere
    app.add_exception_handler(Exception, _refused)
    for kind in (Refusal, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _refused)

    async def owned(work: Callable[[], T]) -> T:
        try:
            return await asyncio.wrap_future(engine.do(work))
        except Exception as error:
            raise Refusal.of(error) from error

    async def answered(request: Request, body: Writing, prepare: Callable[[], Prepared], kind: str) -> Response:
        reply = Reply(await owned(prepare), engine, kind, service.name)
        request.scope["reply"] = reply
        if body.stream:
            return StreamingResponse(_stream(reply, body.wants_usage), media_type="text/event-stream")
        return await _whole(request, reply)

    @app.post("/v1/chat/completions")
    async def chat(body: ChatRequest, request: Request) -> Response:
        return await answered(request, body, lambda: service.chat(body), CHAT)

    @app.post("/v1/completions")
    async def completions(body: CompletionRequest, request: Request) -> Response:
        return await answered(request, body, lambda: service.completion(body), COMPLETION)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return await owned(service.models)

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        found = (await owned(service.models))["data"]
        if name != service.name:
            raise Refusal(404, f"expected the model {service.name!r}, found {name!r}; correct it.", "model_not_found")
        return dict(found[0])

    @app.post("/score")
    async def score(body: ScoreRequest) -> dict[str, Any]:
        return await owned(lambda: service.score(body))

    add_page(app)
    return app


async def _whole(request: Request, reply: Reply) -> Response:
    """The reply in one piece; whoever leaves before does not keep others waiting."""

    async def collect() -> None:
        async for _ in reply.pieces():
            pass

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    whole, gone = asyncio.ensure_future(collect()), asyncio.ensure_future(left())
    try:
        await asyncio.wait({whole, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not whole.done():
            return Response(status_code=CLIENT_LEFT)
        await whole
        return JSONResponse(reply.whole())
    finally:
        whole.cancel()
        gone.cancel()


async def _stream(reply: Reply, wants_usage: bool) -> AsyncIterator[str]:
    """Server-sent events; one that is broken off ends with an error in place of [DONE]."""
    try:
        yield _event(reply.chunk(None))
        async for piece in reply.pieces():
            yield _event(reply.chunk(piece))
        yield _event(reply.chunk("", ended=True))
        if wants_usage:
            yield _event(reply.usage_chunk())
        yield "data: [DONE]\n\n"
    except Exception as error:
        yield _event(Refusal.of(error).body)


def _event(value: Any) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


async def _refused(request: Request, error: Exception) -> Response:
    """Every fault in OpenAI's shape."""
    if isinstance(error, RequestValidationError):
        refusal = misfit(error.errors(), FIELDS)
    elif isinstance(error, HTTPException):
        found = f"{request.method} {request.url.path[:60]}"
        refusal = Refusal(error.status_code, f"expected {' or '.join(ADDRESSES)}, found {found}; correct it.")
    else:
        refusal = Refusal.of(error)
    return JSONResponse(refusal.body, refusal.status, refusal.headers)
