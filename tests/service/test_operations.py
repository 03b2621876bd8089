"""Health, metrics, admin routes, the last requests, and the gateway's own routes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest

from cascade.errors import ConfigurationError, LedgerError
from cascade.integrations.logs import JsonFormatter
from cascade.service import ServiceConfig, create_app
from cascade.service.config import LogConfig
from cascade.service.server import set_up_logs
from tests.servers import replies
from tests.servers.fake import FakeServer
from tests.service.gateway import configured, gateway


async def test_it_is_ready_when_its_database_answers_and_tells_what_tiers_did_last(
    upstream: FakeServer, tmp_path: Path
) -> None:
    async with gateway(configured(upstream, tmp_path)) as running:
        before = await running.get("/readyz")
        await running.ask(await running.key())
        upstream.will(*[replies.error(500, "down")] * 9)
        await running.ask(await running.key())
        after = await running.get("/readyz")
        alive = await running.get("/healthz")
    assert (before.status_code, before.json()["database"]) == (200, "ok")
    assert before.json()["tiers"]["support"]["small"]["state"] == "untried"
    failed = after.json()["tiers"]["support"]["small"]
    assert (after.status_code, failed["state"]) == (200, "failed")
    assert failed["error"] == "ModelUnavailableError"
    assert alive.json() == {"status": "ok"}


async def test_it_is_not_ready_without_its_database_and_lets_nobody_in(
    upstream: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unreachable(*_: object) -> None:
        raise LedgerError("the ledger's database: gone")

    async with gateway(configured(upstream, tmp_path)) as running:
        secret = await running.key()
        monkeypatch.setattr(running.service.keys._engine, "get", unreachable)
        ready = await running.get("/readyz")
        asked = await running.ask(secret)
    assert (ready.status_code, ready.json()["database"]) == (503, "failed")
    assert (asked.status_code, asked.json()["error"]["code"]) == (503, "ledger_unavailable")
    assert not upstream.received


async def test_it_says_at_the_start_that_there_is_no_key_yet(
    upstream: FakeServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with gateway(configured(upstream, tmp_path)) as running:
        assert "there is no valid key yet" in caplog.text
        await running.key()
    caplog.clear()
    async with gateway(configured(upstream, tmp_path)):
        assert "no valid key" not in caplog.text


async def test_it_starts_without_its_database_and_says_so(
    upstream: FakeServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = configured(upstream, tmp_path, ledger="postgresql://me:hunter2@127.0.0.1:1/books")
    async with gateway(config) as running:
        ready = await running.get("/readyz")
        asked = await running.ask("csk_" + "a" * 43)
    assert (ready.status_code, asked.status_code) == (503, 503)
    assert "the keys cannot be read yet" in caplog.text
    assert "hunter2" not in caplog.text + ready.text + asked.text


async def test_metrics_are_for_who_has_a_key_and_count_requests_and_runs(
    upstream: FakeServer, tmp_path: Path
) -> None:
    async with gateway(configured(upstream, tmp_path)) as running:
        refused = await running.get("/metrics")
        secret = await running.key()
        await running.ask(secret)
        await running.get("/no/such/path/42")
        shown = await running.get("/metrics", secret)
    assert refused.status_code == 401
    assert shown.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = shown.text.splitlines()
    requests = "cascade_http_requests_total"
    assert f'{requests}{{method="POST",route="/test/ask",status="200"}} 1.0' in lines
    assert f'{requests}{{method="",route="unrouted",status="404"}} 1.0' in lines
    assert any(line.startswith('cascade_requests_total{cascade="support"') for line in lines)
    assert 'cascade_gate_running{model="support"} 0.0' in lines
    assert "no/such" not in shown.text


async def test_metrics_count_ledger_entries_that_are_not_written(
    upstream: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gateway(configured(upstream, tmp_path)) as running:
        secret = await running.key()
        assert running.service.store is not None
        monkeypatch.setattr(running.service.store._writer, "_lost", 2)
        lines = (await running.get("/metrics", secret)).text.splitlines()
    assert {"cascade_ledger_lost_total 2.0", "cascade_ledger_waiting 0.0"} <= set(lines)


async def test_an_answer_nobody_waits_for_is_no_longer_open(
    upstream: FakeServer, tmp_path: Path
) -> None:
    async with gateway(configured(upstream, tmp_path)) as running:
        secret = await running.key()
        await asyncio.gather(*(running.ask(secret) for _ in range(5)))
        shown = await running.get("/metrics", secret)
    assert "cascade_http_open 1.0" in shown.text.splitlines()  # that of the metrics themselves


async def test_admin_routes_are_for_admin_keys_alone(upstream: FakeServer, tmp_path: Path) -> None:
    routes = [
        ("GET", "/admin/keys"),
        ("POST", "/admin/keys"),
        ("DELETE", "/admin/keys/x"),
        ("POST", "/admin/keys/x/rotate"),
        ("GET", "/admin/budgets"),
        ("POST", "/admin/reload"),
        ("GET", "/admin/cascades"),
        ("PUT", "/admin/cascades/support/mode"),
        ("GET", "/admin/report"),
    ]
    async with gateway(configured(upstream, tmp_path)) as running:
        secret = await running.key()
        for method, path in routes:
            for headers, status in (({}, 401), ({"X-API-Key": secret}, 403)):
                answer = await running.client.request(method, path, headers=headers, json={})
                assert answer.status_code == status, path
        described = running.app.openapi()["paths"]
        shown = {(m.upper(), p) for p in described for m in described[p] if p.startswith("/admin")}
    assert {(m, p.replace("/x", "/{key_id}").replace("support", "{name}")) for m, p in routes} == (
        shown
    )


async def test_an_admin_makes_lists_and_revokes_keys(upstream: FakeServer, tmp_path: Path) -> None:
    async with gateway(configured(upstream, tmp_path)) as running:
        admin = {"X-API-Key": await running.key("root", admin=True)}
        new = {"name": "team", "models": ["support"], "day_usd": "1.50", "tags": {"team": "a"}}
        made = await running.client.post("/admin/keys", json=new, headers=admin)
        secret, key = made.json()["secret"], made.json()["key"]
        asked = await running.ask(secret)
        listed = await running.client.get("/admin/keys", headers=admin)
        gone = await running.client.delete(f"/admin/keys/{key['id']}", headers=admin)
        again = await running.client.delete(f"/admin/keys/{key['id']}", headers=admin)
        after = await running.ask(secret)
        database = (tmp_path / "ledger.db").read_bytes() + _beside(tmp_path)
    assert (made.status_code, secret[:4], len(secret)) == (201, "csk_", 47)
    assert asked.status_code == 200
    assert [shown["name"] for shown in listed.json()] == ["root", "team"]
    assert not any(name in listed.text for name in ("digest", secret))
    assert gone.json()["revoked_at"] is not None
    assert (again.status_code, after.status_code) == (404, 401)
    assert secret.encode() not in database


def _beside(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.glob("ledger.db-*"))


@pytest.mark.parametrize(
    ("new", "words"),
    [
        ({"name": "a", "models": ["nobody"]}, "there is no nobody; there are support"),
        ({"name": "a", "day_usd": -1}, "greater than 0"),
        ({"name": "a", "day_usd": "NaN"}, "finite"),
        ({"name": " "}, "needs a name"),
        ({"name": "a", "tags": {"key": "other"}}, "'key' is the key's own"),
        ({"name": "a", "budget": 3}, "budget"),
    ],
)
async def test_a_key_that_cannot_work_is_refused(
    upstream: FakeServer, tmp_path: Path, new: dict[str, object], words: str
) -> None:
    async with gateway(configured(upstream, tmp_path, auth=False)) as running:
        answer = await running.client.post("/admin/keys", json=new)
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]


async def test_the_mode_of_a_cascade_can_be_changed_and_a_wrong_one_is_refused(
    upstream: FakeServer, tmp_path: Path
) -> None:
    async with gateway(configured(upstream, tmp_path, auth=False)) as running:
        path = "/admin/cascades/support/mode"
        changed = await running.client.put(path, json={"mode": "canary"})
        wrong = await running.client.put(path, json={"mode": "alive"})
        nobody = await running.client.put("/admin/cascades/x/mode", json={"mode": "live"})
    assert changed.json()["mode"] == "canary"
    assert (wrong.status_code, nobody.status_code) == (400, 404)


async def test_a_cascade_of_one_tier_has_no_shadow(upstream: FakeServer, tmp_path: Path) -> None:
    config = configured(upstream, tmp_path, auth=False)
    config["cascades"]["support"]["tiers"] = config["cascades"]["support"]["tiers"][:1]
    async with gateway(config) as running:
        answer = await running.client.put("/admin/cascades/support/mode", json={"mode": "shadow"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "mode_not_possible")


async def test_the_report_is_that_of_the_ledger(upstream: FakeServer, tmp_path: Path) -> None:
    async with gateway(configured(upstream, tmp_path, auth=False)) as running:
        await running.ask()
        report = await running.get("/admin/report?days=1")
    async with gateway(configured(upstream, tmp_path, auth=False, ledger=None)) as running:
        without = await running.get("/admin/report")
    assert report.status_code == 200
    assert report.json()["total"]["requests"] == 1
    assert (without.status_code, without.json()["error"]["code"]) == (409, "no_ledger")


async def test_the_last_requests_show_their_way_and_not_their_words(
    upstream: FakeServer, tmp_path: Path
) -> None:
    config = configured(upstream, tmp_path, recent=2)
    async with gateway(config) as running:
        secret = await running.key()
        waiting = asyncio.create_task(running.in_loop(running.service.recent.after()))
        for _ in range(3):
            await running.ask(secret, text="hunter2")
        first = await waiting
        [key] = await running.in_loop(running.service.keys.list())
        kept = running.service.recent.since()
    assert [finished.number for finished in first] == [1]
    assert [finished.number for finished in kept] == [2, 3]
    [last] = [finished for finished in kept if finished.number == 3]
    assert (last.cascade, last.key, last.tier) == ("support", key.id, "large")
    assert last.steps[0].node == "draft"
    assert last.cost_usd == sum((step.cost_usd or Decimal(0)) for step in last.steps)
    assert "hunter2" not in repr(kept)


async def test_unknown_paths_and_methods_have_the_protocols_shape(
    upstream: FakeServer, tmp_path: Path
) -> None:
    async with gateway(configured(upstream, tmp_path, auth=False)) as running:
        openai = await running.get("/v1/nothing")
        ollama = await running.get("/api/nothing")
        method = await running.client.delete("/healthz")
        invalid = await running.client.post("/test/ask", content=b"{")
    assert openai.json()["error"]["code"] == "not_found"
    assert isinstance(ollama.json()["error"], str)
    assert method.status_code == 405
    assert method.headers["allow"] == "GET"
    assert (invalid.status_code, invalid.json()["error"]["code"]) == (400, "invalid_value")


@pytest.mark.parametrize("told", [True, False])
async def test_a_body_that_is_too_long_is_refused_while_it_is_read(
    upstream: FakeServer, tmp_path: Path, told: bool
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b" " * 1024

    config = configured(upstream, tmp_path, max_body_mib=0.03)
    async with gateway(config) as running:
        content = b" " * 65536 if told else pieces()
        answer = await running.client.post(
            "/test/ask", content=content, headers={"Content-Type": "application/json"}
        )
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_long")


async def test_the_openapi_document_names_both_ways_to_bring_a_key(
    upstream: FakeServer, tmp_path: Path
) -> None:
    async with gateway(configured(upstream, tmp_path)) as running:
        document = (await running.get("/openapi.json")).json()
    schemes = document["components"]["securitySchemes"]
    assert {scheme["type"] for scheme in schemes.values()} == {"http", "apiKey"}
    for path in ("/admin/keys", "/metrics", "/v1/chat/completions"):
        for operation in document["paths"][path].values():
            assert operation["security"], path
    assert "security" not in document["paths"]["/healthz"]["get"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ledger": None}, "keys are kept in the ledger's database"),
        ({"ledger": "memory://"}, "keys are kept in the ledger's database"),
        ({"ledger": "postgres:me:hunter2@host"}, "ledger.url"),
        ({"cascade": {"calibrator": "no.json"}}, "cascades.support: "),
        ({"cascade": {"signals": ["guess"]}}, "there is no signal 'guess'"),
        ({"ledger": {"url": "sqlite:///x.db", "hash_key_env": "NO_SUCH"}}, "NO_SUCH is not set"),
    ],
)
def test_what_cannot_run_is_refused_before_it_starts(
    upstream: FakeServer, tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    config = ServiceConfig.model_validate(configured(upstream, tmp_path, **changes))
    with pytest.raises(ConfigurationError) as refused:
        create_app(config)
    assert words in str(refused.value)


def test_an_address_that_is_none_is_told_without_its_password(
    upstream: FakeServer, tmp_path: Path
) -> None:
    config = configured(upstream, tmp_path, ledger="mysql://me:hunter2@host/db")
    with pytest.raises(ConfigurationError) as refused:
        create_app(ServiceConfig.model_validate(config))
    assert "mysql://[…]@host/db" in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("format_", ["text", "json"])
def test_logs_are_the_services_own_and_those_of_clients_stay_quiet(format_: str) -> None:
    names = ("", "cascade", "uvicorn", "openai", "httpx")
    root = logging.getLogger()
    before = [(logging.getLogger(name), logging.getLogger(name).level) for name in names]
    handlers = list(root.handlers)
    try:
        set_up_logs(LogConfig.model_validate({"format": format_, "level": "debug"}))
        assert logging.getLogger("cascade").isEnabledFor(logging.DEBUG)
        assert not logging.getLogger("uvicorn").isEnabledFor(logging.DEBUG)
        assert not logging.getLogger("openai").isEnabledFor(logging.INFO)
        assert isinstance(root.handlers[0].formatter, JsonFormatter) == (format_ == "json")
    finally:
        root.handlers[:] = handlers
        for logger, level in before:
            logger.setLevel(level)
