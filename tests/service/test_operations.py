"""What operators and attackers see: configuration, health, admin, foreign hosts, long work."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import sqlite3
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from cascade import errors
from cascade.errors import ConfigurationError
from cascade.ledger.entries import plain_reason
from cascade.models.openai import OpenAIModel
from cascade.service import read_config
from cascade.service.config import TierConfig
from cascade.service.faults import fault_of, kind_of
from tests.acceptance.upstream import Answer, Held, Upstream, failure
from tests.service.conftest import ASKED, Live, Serve, Served, write


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("threshold: 0.8", "threshold: 8", "threshold: should be less than or equal to 1, not 8"),
        ("api_key_env: UPSTREAM_KEY", "api_key_env: '${NOT_SET}'", "NOT_SET is not set"),
        ("base_url:", "agent: 'team:cheap', base_url:", "give a model, or an agent in its place"),
        ("listen:", "ledger: x\nlisten:", ":2: ledger: it stands here a second time"),
        ("  support:", "  su pport:", "should match pattern"),
        ("sqlite:///ledger.db", "''", "keys are kept in the ledger's database"),
        ("port: 0", "port: 0, proxies: [nowhere]", "proxies"),
        ("{port: 0}", "{host: 0.0.0.0}\nauth: false", "loopback only"),
        ("{port: 0}", "{port: 0", "cascade.yaml:"),
        *(
            ("threshold: 0.8", f"{key}: some", f":5: cascades.support.{key}: should be {words}")
            for key, words in (
                ("abort", "a valid boolean or should be a valid number, not 'some'"),
                ("local_only", "a valid boolean or should be 'answer' or 'abstain', not 'some'"),
            )
        ),
    ],
)
def test_a_wrong_configuration_names_file_line_and_key(
    tmp_path: Path, upstream: Upstream, old: str, new: str, said: str
) -> None:
    path = write(tmp_path, upstream)
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ConfigurationError) as raised:
        read_config(path)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("agent", "said"),
    [
        ("no_such_module:cheap", "No module named 'no_such_module'"),
        ("json:no_such_name", "has no attribute 'no_such_name'"),
        ("json:decoder", "give a compiled graph, an agent"),
        ("without_its_key:cheap", "KeyError: 'NO_SUCH_KEY'"),
        ("leaves:cheap", "SystemExit: 3"),
    ],
)
def test_an_agent_that_is_none_is_said(tmp_path: Path, agent: str, said: str) -> None:
    (tmp_path / "without_its_key.py").write_text("import os\nos.environ['NO_SUCH_KEY']\n")
    (tmp_path / "leaves.py").write_text("raise SystemExit(3)\n")
    with pytest.raises(ConfigurationError, match=f"'{agent}' cannot be had: .*{said}.*beside the"):
        TierConfig(agent=agent).open(tmp_path)


def test_variables_fill_in_and_options_go_over_the_file(
    tmp_path: Path, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, upstream, top="max_body_mib: ${MANY}\n")
    monkeypatch.setenv("MANY", "7")
    read = read_config(path, overrides={"listen": {"port": 9000}})
    assert (read.listen.port, read.max_body_mib) == (9000, 7)
    monkeypatch.setenv("MANY", "secret")
    with pytest.raises(ConfigurationError, match="max_body_mib: should be") as raised:
        read_config(path)
    assert "secret" not in str(raised.value)


def test_a_file_that_is_none_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("[]")
    for path in (tmp_path / "a.yaml", tmp_path / "gone.yaml", tmp_path / "a.toml"):
        with pytest.raises(ConfigurationError):
            read_config(path)


async def test_a_reload_says_what_changed(tmp_path: Path, serve: Serve, upstream: Upstream) -> None:
    upstream.says("small", Answer("Canberra", p=0.7))
    async with serve() as served:
        before = (await served.ask()).headers["x-cascade-tier"]
        path = tmp_path / "cascade.yaml"
        text = path.read_text().replace("threshold: 0.8", "threshold: 0.6")
        more = "max_body_mib: 5\nshutdown_grace_s: 9\nlog: {format: json}\n"
        path.write_text(text.replace("port: 0", "port: 9") + more)
        said = (await served.client.post("/admin/reload")).json()
        after = (await served.ask()).headers["x-cascade-tier"]
        path.write_text(path.read_text().replace("mib: 5", "mib: 6"))
        other = (await served.client.post("/admin/reload")).json()
        path.write_text("cascades: {}\n")
        broken = (await served.client.post("/admin/reload")).json()
        still = await served.ask()
    assert (before, after) == ("large", "small")
    assert said == {
        "changed": ["cascades.support", "max_body_mib"],
        "needs_restart": ["listen", "shutdown_grace_s", "log"],
        "problems": [],
    }
    assert other["changed"] == ["max_body_mib"]  # and the cascades go on as they are
    assert "at least 1 item" in broken["problems"][0]
    assert still.status_code == 200


async def test_a_changed_file_is_loaded_again_by_itself(
    tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cascade.service.gateway.WATCH_S", 0.01)
    async with serve() as served:
        path = tmp_path / "cascade.yaml"
        text = path.read_text().replace("threshold: 0.8", "threshold: 0.99")
        path.write_text(text)
        os.utime(path, (1, 1))
        async with asyncio.timeout(300):
            while served.gateway.config.cascades["support"].threshold != 0.99:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert (await served.ask()).headers["x-cascade-tier"] == "large"


async def test_models_are_made_ready_before_the_first_request(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    warmed, both = [], asyncio.Event()

    async def warm(model: OpenAIModel) -> None:
        warmed.append(model.model)
        if model.model == "large":
            both.set()
        raise errors.ModelUnavailableError("it is away", model=model.name)

    monkeypatch.setattr(OpenAIModel, "warm", warm)
    async with serve() as served, asyncio.timeout(300):
        await both.wait()
        assert (await served.ask()).status_code == 200
    assert warmed == ["small", "large"]


async def test_health_metrics_and_a_document_are_there_and_admin_routes_for_admins(
    served: Served,
) -> None:
    await served.ask()
    assert (await served.client.get("/healthz")).json() == {"status": "ok"}
    for path in ("/healthz", "/readyz"):  # monitors ask for the head
        assert (await served.client.head(path)).status_code == 200
    metrics = (await served.client.get("/metrics")).text
    nobody = await served.client.get("/metrics", headers={"Authorization": ""})
    document = (await served.client.get("/openapi.json")).json()
    assert 'cascade_requests_total{cascade="support"' in metrics
    assert nobody.status_code == 401
    assert {"/v1/chat/completions", "/v1/messages", "/api/chat"} <= set(document["paths"])
    assert list(document["paths"]["/metrics"]["get"]["responses"]["200"]["content"]) == [
        "text/plain"
    ]
    for ref in set(re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(document))):
        found = document
        for name in ref.split("/"):
            found = found[name.replace("~1", "/")]
    plain = served.as_key(await served.key("plain"))
    assert (await served.client.post("/admin/reload", headers=plain)).status_code == 403


async def test_a_ledger_that_cannot_be_written_is_not_ready_and_costs_nothing(
    tmp_path: Path, served: Served, upstream: Upstream
) -> None:
    assert (await served.ask()).status_code == 200
    asked = len(upstream.seen)
    with sqlite3.connect(tmp_path / "ledger.db", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        begun = time.monotonic()
        answer, ready = await asyncio.gather(served.ask(), served.client.get("/readyz"))
        took_s = time.monotonic() - begun
        other.execute("ROLLBACK")
    async with asyncio.timeout(300):
        while (await served.client.get("/readyz")).status_code != 200:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert ready.status_code == 503
    assert ready.json()["reason"] == "the ledger cannot be written"
    assert answer.status_code == 503
    assert len(upstream.seen) == asked
    assert took_s < 10


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Host": "[127.0.0.1"},
        {"Origin": "http://[127.0.0.1"},
    ],
)
async def test_without_keys_no_foreign_page_reaches_any_route(
    serve: Serve, upstream: Upstream, headers: dict[str, str]
) -> None:
    asked = ("/admin/reload", "/v1/chat/completions", "/v1/messages", "/api/chat")
    shown = ("/api/tags", "/", "/healthz", "/metrics")
    own = {"Host": "localhost:8080", "Origin": "http://localhost:8080"}
    async with serve(auth=False) as served:
        answers = [await served.client.post(path, headers=headers, json={}) for path in asked]
        answers += [await served.client.get(path, headers=headers) for path in shown]
        assert {answer.status_code for answer in answers} == {403}
        assert upstream.seen == []
        assert (await served.ask(own)).status_code == 200


async def test_long_and_packed_bodies_are_refused(serve: Serve) -> None:
    async with serve(top="max_body_mib: 0.5\n") as served:
        long = await served.ask(messages=[{"role": "user", "content": "x" * 600_000}])
        packed = await served.ask({"Content-Encoding": "gzip"})
        many = await served.ask(messages=[{"role": "user", "content": "," * 200_000}])

        async def pieces() -> Any:
            for _ in range(20):
                yield b"x" * 50_000

        chunked = await served.client.post("/v1/chat/completions", content=pieces())
    statuses = [each.status_code for each in (long, packed, many, chunked)]
    assert statuses == [413, 415, 413, 413]


def _tools(count: int, **more: Any) -> dict[str, Any]:
    functions = [{"name": f"f{n}", **more} for n in range(count)]
    return {"tools": [{"type": "function", "function": each} for each in functions]}


def _form(schema: dict[str, Any]) -> dict[str, Any]:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    return {"response_format": form}


MANY = {"type": "object", "properties": {f"p{k}": {"type": "string"} for k in range(20)}}
CALLS = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
WORST: dict[str, Any] = {
    "tools": _tools(500, parameters=MANY),
    "too many tools": _tools(1000),
    "alternatives": _form({"anyOf": [{"const": n, "type": "integer"} for n in range(3_900)]}),
    "patterns": _form({"pattern": "^(a+)+$", "type": "string"}),
    "values": {"stop": ["x"] * 90_000},
    "messages": {"messages": ASKED * 3_500},
    "too many messages": {"messages": [{"role": n} for n in range(40_000)]},
    "calls": {"messages": [{"role": "assistant", "tool_calls": CALLS * 600}] * 3 + ASKED},
    "too many calls": {"messages": [{"role": "assistant", "tool_calls": CALLS * 4_000}] * 3},
    "depth": {"metadata": json.loads("[" * 90 + "]" * 90)},
}


@pytest.mark.parametrize("kind", WORST)
def test_no_request_holds_up_the_others(running: Live, upstream: Upstream, kind: str) -> None:
    """The most calls and returns of functions at once on the event loop's thread that the worst
    request of a kind makes, counted in place of seconds: half a million are some 0.05 s."""
    upstream.says("small", Answer("-1" if kind == "alternatives" else "a" * 30 + "b"))
    upstream.says("large", Answer("-1"))
    loop, stop, ended = running.app.state.gateway.loop, threading.Event(), threading.Event()
    calls, most, last = itertools.count(), 0, 0

    def tick() -> None:
        nonlocal most, last
        most, last = max(most, (now := next(calls)) - last), now
        sys.setprofile(None if stop.is_set() else lambda *_: next(calls))
        loop.call_soon(ended.set if stop.is_set() else tick)

    body = json.dumps({"model": "support", "messages": ASKED, **WORST[kind]})
    loop.call_soon_threadsafe(tick)
    try:
        answer = httpx.post(f"{running.url}/v1/chat/completions", content=body, timeout=300)
    finally:
        stop.set()
    assert ended.wait(300)
    assert answer.status_code in (200, 400, 413), answer.text[:300]
    assert most < 500_000


async def test_a_request_may_ask_for_less_time_to_itself(serve: Serve, upstream: Upstream) -> None:
    upstream.says("small", Answer("x", held=Held()))
    upstream.says("large", Answer("x", held=Held()))
    async with serve("    deadline: 60\n") as served:
        answer = await served.ask(cascade={"deadline": 0.3})
    assert answer.status_code == 504


async def test_a_cascade_taken_out_ends(tmp_path: Path, serve: Serve, upstream: Upstream) -> None:
    held = Held()
    upstream.says("small", Answer("Canberra", held=held))
    async with serve() as served:
        running = asyncio.create_task(served.ask())
        await upstream.has_asked(1, "small")
        path = tmp_path / "cascade.yaml"
        path.write_text(path.read_text().replace("  support:", "  sales:"))
        said = (await served.client.post("/admin/reload")).json()
        gone = await served.ask()
        held.release()
        assert (await running).status_code == 200
    assert said["changed"] == ["cascades.sales", "cascades.support"]
    assert gone.status_code == 404


async def test_a_service_starts_while_its_database_is_away(
    tmp_path: Path, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve(ledger=f"sqlite:///{tmp_path}/gone/ledger.db", auth=False) as served:
        ready = await served.client.get("/readyz")
        answer = await served.ask()
    assert (ready.status_code, answer.status_code) == (503, 503)
    assert "the ledger cannot be written yet" in caplog.text


async def test_a_reason_names_the_tier_and_the_kind_of_failure_only(
    serve: Serve, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "org-acme at http://10.1.2.3:99/v1/models of /home/acme failed"
    upstream.says("small", failure(503, secret))
    async with serve("    breaker: 1\n") as served:
        first, second = await served.ask(), await served.ask()
    told = first.headers["x-cascade-reason"]
    assert told == first.json()["cascade"]["reason"] == "small: ModelUnavailableError"
    assert second.headers["x-cascade-reason"] == "small: left alone after failures"
    text = first.text + second.text
    assert not any(word in text for word in ("acme", "10.1.2.3", "/v1/models", "127.0.0.1"))
    run = first.headers["x-cascade-run-id"]
    assert f"run {run}: ModelUnavailableError: openai:small at" in caplog.text
    assert secret in caplog.text


def test_an_unexpected_error_tells_nothing_but_that_there_was_one() -> None:
    assert fault_of(KeyError("secret")).message == "the service failed; its log says more."
    assert fault_of(errors.CascadeError("secret")).message.startswith("the service failed;")
    assert fault_of(errors.RecordingMissError("secret")).status == 404
    late = fault_of(errors.RateLimitError("no", model="openai:x", retry_after=2.4))
    assert (late.status, late.headers) == (429, {"Retry-After": "3"})
    away = fault_of(errors.CircuitOpenError("no", model="openai:x"))
    assert (away.status, away.headers) == (503, {"Retry-After": "1"})
    assert kind_of(KeyError()) == "failed"
    reason = "score 0.1 < 0.8; but large could not be had: http://10.0.0.1/v1 said no"
    assert plain_reason(reason, ["large: unavailable"]) == "score 0.1 < 0.8; large: unavailable"
    assert plain_reason("small failed: http://10.0.0.1", []) == "a tier failed"
