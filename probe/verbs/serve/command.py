"""serve: a run behind an address on this machine, which any OpenAI client speaks to; each request says how strongly to steer."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.errors import ProbeError
from probe.lm.spec import LMSpec
from probe.logs import DIRECTION, NEWEST, find_run
from probe.options.types import FilePath, Finite, Port, PositiveInt
from probe.steering.settings import Steering

if TYPE_CHECKING:
    import socket

    from probe.shown.terminal import Terminal
    from probe.verbs.serve.service import Service

TOKEN = "PROBE_SERVE_TOKEN"
"""The environment variable of the token."""
SHORTEST = 16
"""Characters of a token."""
NAMES = ("localhost", "127.0.0.1", "::1")
"""What this machine is called on itself."""


def run(
    run: str = NEWEST,
    host: str = "127.0.0.1",
    port: Port = 8000,
    token_file: FilePath | None = None,
    strength: Finite | None = None,
    max_prompt_tokens: PositiveInt | None = None,
    max_answer_tokens: PositiveInt = 1024,
    max_waiting: PositiveInt = 64,
    lm: LMSpec | None = None,
    **writing: Any,
) -> int:
    """Serves a run's model and direction: /v1/chat/completions, /v1/completions, /v1/models, /score and, at /, a page.

    Args:
        run: Whose direction: newest, a run's folder, or a name such as probe/version_3; a request may name another of the same
            model.
        host: Where to listen; elsewhere than on this machine alone a token is demanded, in PROBE_SERVE_TOKEN or --token_file.
        port: Where to listen; 0 takes any that is free.
        token_file: Holds the token, which clients give as their api_key.
        strength: How much of the direction where a request does not say; by default as recommended, else one dose.
        max_prompt_tokens: Longest prompt; by default what the model can read.
        max_answer_tokens: The most tokens that a request may ask for.
        max_waiting: Requests that may wait, beside those that are written at once (--rows); others are sent away.
        lm: The model; by default the one that the run was made with.
        writing: The settings of `Steering`, each by its name, where a request does not say; a request says `strength`,
            `strength_unit`, `layer`, `operator` and `direction` in the OpenAI client's extra_body.
    """
    said = Steering(**writing)
    folder, token = find_run(run, DIRECTION), _token(token_file)
    try:
        import fastapi  # noqa: F401

        from probe.verbs.serve.server import Server, bound, is_loopback
    except ImportError as error:
        raise ProbeError(
            f"serve: expected the packages fastapi and uvicorn, found no {error.name}; install them with: pip install "
            "'lm-probe[serve]'."
        ) from error
    listening = bound(host, port)
    alone = is_loopback(listening)
    if not (alone or token):
        raise ProbeError(
            f"--host {host}: expected a token, since others reach this address, found none; put one into {TOKEN}, or into a file "
            "that --token_file names."
        )

    from probe.lm.open_batch import OpenBatch
    from probe.runs.run import load
    from probe.shown.terminal import Terminal
    from probe.verbs.serve.api import make_app
    from probe.verbs.serve.engine import Engine
    from probe.verbs.serve.gate import Gate
    from probe.verbs.serve.page import OPEN_FILES
    from probe.verbs.serve.service import Limits, Service
    from probe.verbs.serve.steering import within

    found, console = load(folder, lm), Terminal()
    longest = min(max_prompt_tokens or found.lm.max_tokens, found.lm.max_tokens)
    service = Service(found, said, strength, Limits(longest, max_answer_tokens))
    _tell(console, service, listening, token)
    engine = Engine(OpenBatch(found.lm, said.rows, lambda lines, part: within(found.lm, lines, part)), max_waiting)
    names = {host, *NAMES} if alone else ()
    gate = Gate(make_app(service, engine), lambda line: console.print(line, soft_wrap=True), token, names, OPEN_FILES)
    Server(gate, engine).run([listening])
    console.print("Ended: what was under way is finished, or was told.")
    return 0


def _token(file: str | None) -> str | None:
    """What clients have to show, from a file or from the environment.

    Raises:
        ProbeError: where it is none that could be guessed by nobody.
    """
    where, found = TOKEN, os.environ.get(TOKEN, "")
    if file and found:
        raise ProbeError(f"--token_file {file}: expected the token there or in {TOKEN}, found both; leave one out.")
    if file:
        where = f"--token_file {file}"
        try:
            found = Path(file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ProbeError(
                f"{where}: expected a file with a token, found none that can be read ({error})."
            ) from error
    found = found.strip()
    if (file or found) and not (
        len(found) >= SHORTEST and found.isascii() and found.isprintable() and " " not in found
    ):
        raise ProbeError(
            f"{where}: expected {SHORTEST} or more letters and digits without a space, found another; make one with: "
            "openssl rand -hex 32"
        )
    return found or None


def _tell(console: "Terminal", service: "Service", listening: "socket.socket", token: str | None) -> None:
    """Says what is served, on which address, and how to call it."""
    host, port = listening.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    made, told = service.run.direction.provenance, service.usual
    how = f"{told['strength']:+g} {told.get('strength_unit', '')}".strip() if told.get("strength") else ""
    how = f"{how} by `{told['operator']}` after layer {told['layer']}" if "operator" in told else "plain"
    console.print(
        f"Serving {service.directions.served} ({made.get('method', 'a direction')}, {made.get('concept') or 'no name'}), model "
        f"{service.name}; where a request does not say: {how}, {service.said.max_new_tokens} tokens at temperature "
        f"{service.said.temperature:g}."
    )
    if token:
        console.print(
            "The token is demanded of every request, and travels unencrypted: beyond this machine, behind TLS."
        )
    body = {"model": service.name, "messages": [{"role": "user", "content": "Write a story about a town."}]}
    asked = json.dumps(body | {"strength": 1, "max_tokens": 60})
    shown = f' -H "Authorization: Bearer ${TOKEN}"' if token else ""
    console.print(
        f"A page: {url}   For OpenAI clients: base_url {url}/v1, and `strength` in extra_body. Or, in a shell:"
    )
    console.print(
        f"curl {url}/v1/chat/completions{shown} -H 'Content-Type: application/json' -d '{asked}'", soft_wrap=True
    )
    console.print("Ctrl-C ends it, once what is under way is finished.")
