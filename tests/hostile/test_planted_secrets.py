"""Secrets are planted, everything that puts something out is run, and all of it is searched.

The provider echoes in its errors what it was sent: its key, the question, the whole request.
"""

from __future__ import annotations

import asyncio
import inspect
import io
import json
import logging
import secrets
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from typer.testing import CliRunner

import cascade.errors as errors_module
from cascade import Cascade, Tier
from cascade.cli import app as commands
from cascade.errors import CascadeError, ConfigurationError, ModelError, PersonNeededError
from cascade.integrations.logs import JsonFormatter, TextFormatter
from cascade.integrations.opentelemetry import Telemetry
from cascade.ledger.store import mask_secrets, open_store
from cascade.models.base import guard
from cascade.report import make_report
from cascade.service import ServiceConfig
from cascade.service.faults import fault_of
from cascade.service.keys import Keys, make_key
from cascade.service.reading import masked
from tests.servers import replies
from tests.servers.fake import FakeServer
from tests.service.conftest import upstream
from tests.service.gateway import Gateway, configured, gateway

__all__ = ["upstream"]

# Without the form of a key, so that nothing but knowing it helps.
PROVIDER_KEY = "planted" + secrets.token_hex(20)
PASSWORD = "planted" + secrets.token_hex(8)
QUESTION = "planted question: who will be let go in the third quarter of the year?"
PIECE = "who will be let go in the third quarter"


@dataclass
class Harvest:
    """Everything that came out, by where."""

    found: list[tuple[str, str]] = field(default_factory=list)

    def take(self, where: str, *things: object) -> None:
        for thing in things:
            self.found.append((where, thing if isinstance(thing, str) else repr(thing)))

    def take_files(self, folder: Path) -> None:
        """The ledger's files, byte by byte."""
        for path in folder.glob("ledger.db*"):
            self.take(path.name, path.read_bytes().decode("latin-1"))

    def search(self, **planted: str) -> None:
        assert len(self.found) > 5
        wrong = {
            f"{name} in {where}: …{text[max(0, text.index(secret) - 80) :][:160]}…"
            for where, text in self.found
            for name, secret in planted.items()
            if secret in text
        }
        assert not wrong, "\n".join(sorted(wrong))


@pytest.fixture
def harvest() -> Harvest:
    return Harvest()


@pytest.fixture
def logs(harvest: Harvest) -> Iterator[None]:
    """All that is logged by the package, at its lowest level, as text and as JSON."""
    streams = []
    logger = logging.getLogger("cascade")
    level = logger.level
    logger.setLevel(logging.DEBUG)
    for formatter in (TextFormatter("%(levelname)s %(message)s"), JsonFormatter()):
        handler = logging.StreamHandler(io.StringIO())
        handler.setFormatter(formatter)
        logger.addHandler(handler)
        streams.append(handler)
    yield
    logger.setLevel(level)
    for handler in streams:
        logger.removeHandler(handler)
        harvest.take("log", handler.stream.getvalue())


def echoing(status: int) -> Any:
    """A refusal that repeats everything that it was sent, and the key."""

    def reply(body: Any) -> replies.Reply:
        said = f"the key {PROVIDER_KEY} may not: {json.dumps(body)} or {body['messages']}"
        return replies.error(status, said, code="refused")

    return reply


@asynccontextmanager
async def planted(
    upstream: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any
) -> AsyncIterator[tuple[Gateway, str, str]]:
    """A gateway with the provider's planted key, a key, and an admin key."""
    monkeypatch.setenv("UPSTREAM_KEY", PROVIDER_KEY)
    config = configured(upstream, tmp_path, log={"requests": True, "level": "debug"}, **changes)
    async with gateway(config) as running:
        yield running, await running.key("team"), await running.key("boss", admin=True)


QUESTIONS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": QUESTION}]}),
    ("/v1/responses", {"input": QUESTION, "store": False}),
    ("/api/chat", {"messages": [{"role": "user", "content": QUESTION}]}),
    ("/api/generate", {"prompt": QUESTION}),
]
ADMIN = ["/admin/keys", "/admin/budgets", "/admin/cascades", "/admin/report", "/v1/models",
         "/api/tags", "/readyz", "/healthz", "/metrics", "/openapi.json"]  # fmt: skip
PAGE = ["/", "/login", "/page/api/service", "/page/api/report", "/page/api/thresholds",
        "/page/api/requests", "/page/static/main.js"]  # fmt: skip


async def ask_everything(
    running: Gateway, upstream: FakeServer, key: str, harvest: Harvest
) -> None:
    bearer = {"Authorization": f"Bearer {key}"}
    for status in (None, 400, 401, 403, 404):
        for path, body in QUESTIONS:
            for stream in (False, True):
                upstream._script.clear()
                if status is not None:
                    upstream.will(*[echoing(status)] * 6)
                asked = {"model": "support", "stream": stream, **body}
                answer = await running.client.post(path, json=asked, headers=bearer)
                # The fake model says the question back in capitals, which is its answer.
                harvest.take(f"{path} {status}", answer.text, str(answer.headers))
    upstream._script.clear()
    for headers in ({}, {"X-API-Key": key[:-1]}, {"Authorization": f"Basic {key}"}):
        answer = await running.client.post(QUESTIONS[0][0], json={}, headers=headers)
        harvest.take("refused", answer.text, str(answer.headers))
    wrong = [{"model": key}, {"model": "support", "messages": QUESTION}, {"cascade": {key: 1}}]
    for index, body in enumerate(wrong):
        answer = await running.client.post(QUESTIONS[0][0], json=body, headers=bearer)
        if index == 1:
            harvest.take("invalid", answer.text)


async def test_no_outlet_of_the_service_gives_a_secret_away(
    upstream: FakeServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    harvest: Harvest,
    logs: None,
) -> None:
    async with planted(upstream, tmp_path, monkeypatch) as (running, key, admin):
        await ask_everything(running, upstream, key, harvest)
        boss = {"Authorization": f"Bearer {admin}"}
        for path in ADMIN:
            answer = await running.client.get(path, headers=boss)
            assert answer.status_code == 200, (path, answer.text)
            harvest.take(path, answer.text, str(answer.headers))
        await running.client.post("/login", data={"key": admin})
        for path in PAGE:
            answer = await running.client.get(path)
            harvest.take(path, answer.text, str(answer.headers))
        service = running.service
        config = service.config
        harvest.take("repr", config, service, service.cascades, service.keys, service.served)
        harvest.take("repr", await service.keys.list(), service.recent.since(0), running.app)
        assert service.store is not None
        await running.in_loop(service.store.flush())
    harvest.take_files(tmp_path)
    logging.getLogger("cascade").debug("the end")
    harvest.search(
        provider_key=PROVIDER_KEY, piece_of_key=PROVIDER_KEY[4:30], key=key, admin_key=admin,
        question=PIECE,
    )  # fmt: skip


@pytest.fixture
def real_adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "forbidden", False)


async def test_no_outlet_of_a_cascade_gives_a_secret_away(
    upstream: FakeServer, tmp_path: Path, harvest: Harvest, logs: None, real_adapters: None
) -> None:
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracing = TracerProvider()
    tracing.add_span_processor(SimpleSpanProcessor(exporter))
    telemetry = Telemetry(tracer_provider=tracing, meter_provider=MeterProvider([reader]))
    url = f"sqlite:///{tmp_path}/ledger.db"
    store = open_store(url, redact=mask_secrets, hash_key="planted-hash-key-0123")
    tiers = [
        Tier(f"openai:{name}", base_url=upstream.openai_url, api_key=PROVIDER_KEY)
        for name in ("small", "large")
    ]
    cascade = Cascade(*tiers, ledger=store, observers=[telemetry])
    result = await cascade.ainvoke(QUESTION)
    harvest.take("ledger", result.ledger.table(), list(result.ledger), result.decision)
    for status in (400, 401, 404):
        upstream.will(*[echoing(status)] * 6)
        with pytest.raises(ModelError) as caught:
            await cascade.ainvoke(QUESTION)
        error = caught.value
        harvest.take("error", str(error), error, fault_of(error).message)
        harvest.take("traceback", "".join(traceback.format_exception(error)))
        assert error.ledger is not None
        harvest.take("ledger", error.ledger.table(), list(error.ledger))
        upstream._script.clear()
    harvest.take("repr", cascade, *cascade.tiers, *tiers, store, cascade.policy, telemetry)
    harvest.take("repr", *(tier.model for tier in cascade.tiers), cascade.task)
    await store.flush()
    for ending in (".jsonl", ".csv"):
        path = tmp_path / f"export{ending}"
        await store.export(path)
        harvest.take(path.name, await asyncio.to_thread(path.read_text, "utf-8"))
    report = await make_report(store)
    harvest.take("report", report.text(), report.html(), report.model_dump_json(), report)
    await cascade.aclose()
    await store.aclose()
    spans = exporter.get_finished_spans()
    assert spans
    harvest.take("spans", *(span.to_json() for span in spans))
    harvest.take("metrics", reader.get_metrics_data().to_json())
    harvest.take_files(tmp_path)
    harvest.search(provider_key=PROVIDER_KEY, question=PIECE, hash_key="planted-hash-key")


def test_no_error_of_the_tree_shows_the_locals_or_the_secret_that_it_was_made_beside(
    harvest: Harvest,
) -> None:
    kinds = [
        kind
        for _, kind in inspect.getmembers(errors_module, inspect.isclass)
        if issubclass(kind, CascadeError) and kind is not PersonNeededError
    ]
    assert len(kinds) > 15
    for kind in kinds:
        held = PROVIDER_KEY  # in reach of whoever prints locals
        try:
            raise kind(
                "it failed", **({"model": "openai:x"} if issubclass(kind, ModelError) else {})
            )
        except CascadeError as error:
            harvest.take("traceback", "".join(traceback.format_exception(error)))
            harvest.take("told", fault_of(error).message, str(error), error)
        del held
    harvest.search(provider_key=PROVIDER_KEY)


def test_commands_give_no_secret_away(
    tmp_path: Path, harvest: Harvest, monkeypatch: pytest.MonkeyPatch, upstream: FakeServer
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", PROVIDER_KEY)
    monkeypatch.setenv("DB_PASSWORD", PASSWORD)
    monkeypatch.setenv("UPSTREAM_KEY", PROVIDER_KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", upstream.openai_url)
    config = tmp_path / "c.yaml"
    tier = f"{{model: 'openai:a', base_url: '{upstream.openai_url}', api_key_env: UPSTREAM_KEY}}"
    other = (
        f"{{model: 'openai:b', base_url: '{upstream.openai_url}', api_key: '${{UPSTREAM_KEY}}'}}"
    )
    ledger = "postgresql://ada:${DB_PASSWORD}@127.0.0.1:9/ledger"
    config.write_text(
        f"ledger: {ledger}\ncascades: {{a: {{tiers: [{tier}, {other}]}}}}\n", encoding="utf-8"
    )
    broken = tmp_path / "broken.yaml"
    broken.write_text(config.read_text(encoding="utf-8") + "nonsense: 1\n", encoding="utf-8")
    address = f"postgresql://ada:{PASSWORD}@127.0.0.1:9/ledger"
    run = CliRunner()
    for arguments in (
        ["doctor", "--model", "openai:a"],
        ["doctor", "--json"],
        ["serve", str(config), "--check"],
        ["serve", str(broken), "--check"],
        ["keys", "list", str(config)],
        ["keys", "list", address],
        ["report", address],
        ["report", address.replace("postgresql", "mysql")],
        ["report", f"sqlite://ada:{PASSWORD}@x.db"],
        ["ask", QUESTION, "--small", "openai:a", "--large", "openai:b", "--no-table"],
    ):
        upstream._script.clear()
        upstream.will(*[echoing(401)] * 6)
        done = run.invoke(commands, arguments)
        harvest.take(" ".join(arguments[:2]), done.output, str(done.exception or ""))
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            harvest.take("crash", "".join(traceback.format_exception(done.exception)))
    harvest.search(provider_key=PROVIDER_KEY, password=PASSWORD)


def test_what_is_configured_shows_no_secret(harvest: Harvest) -> None:
    tier = {"model": "openai:a", "api_key": PROVIDER_KEY}
    ledger = f"postgresql://ada:{PASSWORD}@host/ledger"
    made = {"cascades": {"a": {"tiers": [tier, tier]}}, "ledger": {"url": ledger}}
    config = ServiceConfig.model_validate(made)
    key, secret = make_key("team")
    harvest.take("repr", config, config.ledger, config.cascades["a"].tiers, key, str(config))
    harvest.take("masked", masked({"ledger": {"url": ledger}}))
    for url in (ledger.replace("postgresql", "mysql"), f"sqlite://ada:{PASSWORD}@x"):
        for opening in (open_store, Keys):
            with pytest.raises(ConfigurationError) as caught:
                opening(url)
            harvest.take("opening", str(caught.value), caught.value)
    harvest.take("repr", open_store(ledger), Keys(ledger), Tier("openai:a", api_key=PROVIDER_KEY))
    harvest.search(provider_key=PROVIDER_KEY, password=PASSWORD, key=secret)


def test_what_is_searched_for_is_found() -> None:
    harvest = Harvest([("here", "x")] * 6)
    harvest.take("there", {"key": PROVIDER_KEY})
    with pytest.raises(AssertionError, match="provider_key in there"):
        harvest.search(provider_key=PROVIDER_KEY)
