from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cascade import tiers
from cascade.cli import app
from cascade.models import Model, open_model
from cascade.models.base import guard

Run = Callable[..., Result]
Models = dict[str, Model]

VARIABLES = (
    "CASCADE_SMALL",
    "CASCADE_LARGE",
    "OPENAI_API_KEY",
    "OPENAI_BASE_URL",
    "ANTHROPIC_API_KEY",
    "GOOGLE_API_KEY",
    "MISTRAL_API_KEY",
)
NOBODY = "127.0.0.1:9"
"""The discard port: nobody listens there."""


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("OLLAMA_HOST", NOBODY)


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> Models:
    """Scripted models by the string that the command line gives; others are opened as always."""
    scripted: Models = {}

    def opened(model: Any, **options: Any) -> Model:
        if isinstance(model, str) and model in scripted:
            return scripted[model]
        return open_model(model, **options)

    monkeypatch.setattr(tiers, "open_model", opened)
    return scripted


@pytest.fixture
def run() -> Run:
    """Runs a command as it is typed and compares its exit code."""

    def run(*arguments: object, code: int = 0, **options: Any) -> Result:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], **options)
        assert result.exit_code == code, result.output + repr(result.exception)
        return result

    return run


class Server:
    """Answers each path with the JSON (or text) that the test has set."""

    def __init__(self) -> None:
        self.replies: dict[str, Any] = {}
        self.asked: list[tuple[str, Mapping[str, Any]]] = []
        answer = self._answer

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer(self)

            def do_POST(self) -> None:
                answer(self)

            def log_message(self, *args: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        sent = request.rfile.read(int(request.headers.get("content-length") or 0))
        self.asked.append((request.path, json.loads(sent or b"{}")))
        reply = self.replies.get(request.path)
        body = reply if isinstance(reply, str) else json.dumps(reply or {"error": "not found"})
        request.send_response(404 if reply is None else 200)
        request.send_header("content-type", "application/json")
        request.end_headers()
        request.wfile.write(body.encode())

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def ollama(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """An Ollama server of the test's making, where OLLAMA_HOST points."""
    monkeypatch.setattr(guard, "forbidden", False)
    server = Server()
    monkeypatch.setenv("OLLAMA_HOST", server.host)
    yield server
    server.close()
