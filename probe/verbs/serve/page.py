"""The page at /: three files of this folder, which load nothing from elsewhere and hold no secret."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import FastAPI, Response

OPEN_FILES = {"/": "page.html", "/page.css": "page.css", "/page.js": "page.js"}
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
"""A text that a model wrote could do nothing in this page even if it were taken for HTML."""


def add_page(app: FastAPI) -> None:
    """Serves it."""
    for address, name in OPEN_FILES.items():
        file = Path(__file__).with_name(name)
        app.add_api_route(address, _of(file), methods=["GET"], include_in_schema=False, response_model=None)


def _of(file: Path) -> Callable[[], Awaitable[Response]]:
    text = file.read_text(encoding="utf-8")

    async def answer() -> Response:
        return Response(text, media_type=KINDS[file.suffix], headers=HEADERS)

    return answer
