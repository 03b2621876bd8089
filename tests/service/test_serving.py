"""Running a service: its processes, its connections, its log, and Ray Serve."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from cascade.errors import ConfigurationError, LedgerError, MissingDependencyError
from cascade.service import app, describe, ray_serve, read_config
from cascade.service.config import ListenConfig
from tests.acceptance.upstream import Upstream
from tests.service.conftest import Live, live, write


def test_what_cannot_run_is_said_before_it_is_opened(tmp_path: Path, upstream: Upstream) -> None:
    configured = read_config(write(tmp_path, upstream))
    with app.bound(configured.listen) as made:
        port = made.getsockname()[1]
        taken = read_config(configured.path, overrides={"listen": {"port": port}})
        with pytest.raises(ConfigurationError, match="in use"):
            app.serve(taken)
    assert not (tmp_path / "ledger.db").exists()


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="there is no IPv6 here")
@pytest.mark.parametrize("client", ["127.0.0.1", "::1"])
def test_all_of_a_machine_is_that_of_both_kinds_of_addresses(client: str) -> None:
    with app.bound(ListenConfig(host="::", port=0)) as made:
        made.listen()
        socket.create_connection((client, made.getsockname()[1]), 5).close()


def test_what_would_run_is_described_without_asking(tmp_path: Path, upstream: Upstream) -> None:
    more = (
        "    audits: {rate: 0.1, daily_usd: 1}\n    sticky: true\n    mode: canary\n"
        "    private: looks_personal\n    tool_risks: {pay: irreversible}\n    drift: warn\n"
        "    fallback: {model: 'ollama:x'}\n    abort: true\n"
    )
    path = write(tmp_path, upstream, more)
    path.write_text(re.sub(r", price: \{input: 1,[^}]*\}", "", path.read_text()))
    lines = "\n".join(describe(read_config(path)))
    assert "support: Cascade(small (openai:small)" in lines
    assert "by scores that are not calibrated, canary" in lines
    assert "small: this machine" in lines
    assert not (tmp_path / "ledger.db").exists()
    assert "it has no price; each call counts $0.01 for budgets" in lines
    assert upstream.seen == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("threshold: 0.8", "calibrator: gone.json", r"cascades\.support: "),
        ("threshold: 0.8", "threshold: 0.8\n    max_harm: 0.1", "each of them decides alone"),
        ("ledger: sqlite:///ledger.db", "auth: false", "audits need a ledger"),
        ("UPSTREAM_KEY", "NO_SUCH_KEY", "NO_SUCH_KEY is not set"),
        ("price: {input: 1", "price: {inputs: 1", r"'inputs'.*: give those of Price"),
    ],
)
def test_a_service_that_cannot_run_says_why(
    tmp_path: Path, upstream: Upstream, old: str, new: str, said: str
) -> None:
    path = write(tmp_path, upstream, "    audits: 0.1\n")
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises((ConfigurationError, LedgerError), match=said):
        describe(read_config(path))


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "ARRIVE_S", 0.5)


def _connect(running: Live) -> socket.socket:
    host, port = running.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=300)


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n", b"not arrive in time"),  # it never ends
        (b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{", b"in time"),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000, b"too long"),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000, b"too long"),
        (b"nonsense\r\n\r\n", b"Invalid"),
    ],
)
def test_slow_and_endless_are_cut_off(short: None, running: Live, sent: bytes, said: bytes) -> None:
    with _connect(running) as connection:
        connection.sendall(sent)
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert said in answer


def test_a_client_that_reads_nothing_is_cut_off(short: None, running: Live) -> None:
    with _connect(running) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200" in connection.recv(65536)
        loop, server = running.app.state.gateway.loop, running.server
        for protocol in list(server.server_state.connections):
            loop.call_soon_threadsafe(protocol.pause_writing)
        with suppress(ConnectionError):
            assert connection.recv(65536) == b""


def test_more_requests_than_places_are_refused(tmp_path: Path, upstream: Upstream) -> None:
    overrides: Any = {"auth": False, "listen": {"connections": 2}}
    with live(write(tmp_path, upstream), **overrides) as made, _connect(made):
        assert httpx.get(f"{made.url}/healthz").status_code == 503


def test_a_log_line_is_one_line_whatever_is_in_it() -> None:
    said = {"msg": "a\nb\x1b[2J", "levelname": "INFO", "run": {"run_id": "r"}}
    record = logging.makeLogRecord(said)
    text = app.Lines(as_json=False).format(record)
    assert text.splitlines()[1] == "    b\\x1b[2J"
    line = json.loads(app.Lines(as_json=True).format(record))
    assert (line["message"], line["run_id"]) == ("a\nb\x1b[2J", "r")


def test_logs_are_not_written_by_clients_of_providers(tmp_path: Path, upstream: Upstream) -> None:
    before = logging.root.handlers[:], logging.root.level, logging.getLogger("cascade").level
    try:
        app.set_up_logs(read_config(write(tmp_path, upstream)).log)
        assert logging.getLogger("httpx").getEffectiveLevel() == logging.WARNING
        assert logging.getLogger("cascade").isEnabledFor(logging.INFO)
    finally:
        logging.root.handlers[:] = before[0]
        logging.root.setLevel(before[1])
        logging.getLogger("cascade").setLevel(before[2])


def test_a_replica_is_a_gateway_of_its_own(
    tmp_path: Path, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_serve, "set_up_logs", lambda config: None)
    path = write(tmp_path, upstream)
    replica = ray_serve.GatewayReplica("gone.yaml", str(path))
    made = replica.__serve_build_asgi_app__()
    assert "support" in made.state.gateway.served


@pytest.mark.filterwarnings("ignore")  # Ray's own
@pytest.mark.parametrize(
    ("top", "arguments", "said"),
    [("auth: false\n", {}, "one process on loopback"), ("", {"max_replicas": 2}, "in PostgreSQL")],
)
def test_without_keys_or_a_shared_ledger_there_are_no_replicas(
    tmp_path: Path, upstream: Upstream, top: str, arguments: dict[str, Any], said: str
) -> None:
    path = write(tmp_path, upstream, top=top)
    with pytest.raises(ConfigurationError, match=said):
        ray_serve.app(ray_serve.Arguments(config=str(path), **arguments))


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match="install the extra `ray`"):
        ray_serve.app(ray_serve.Arguments())


@pytest.mark.heavy
def test_ray_serve_answers_through_a_replica(tmp_path: Path, upstream: Upstream) -> None:
    code = f"""
import asyncio, httpx, json, sys
from ray import serve
from cascade.service import Keys
from cascade.service.ray_serve import Arguments, app
import ray
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
async def make():
    keys = Keys("sqlite:///{tmp_path}/ledger.db")
    try: return (await keys.create("team"))[1]
    finally: await keys.aclose()
secret = asyncio.run(make())
serve.start(http_options={{"port": 18473}})
serve.run(app(Arguments(config={str(write(tmp_path, upstream))!r})))
answer = httpx.post("http://127.0.0.1:18473/v1/chat/completions", timeout=60,
    headers={{"Authorization": f"Bearer {{secret}}"}},
    json={{"model": "support", "messages": [{{"role": "user", "content": "Capital?"}}]}})
print(json.dumps(answer.json()["cascade"]["tier"]))
serve.shutdown(); ray.shutdown()
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "UPSTREAM_KEY": "k", "RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert '"small"' in done.stdout, done.stderr[-4000:]
