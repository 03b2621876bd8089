"""Running a service: its processes, its connections, its log, and Ray Serve."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from cascade.errors import ConfigurationError, LedgerError
from cascade.service import Keys, describe, ray_serve, read_config, serving
from tests.acceptance.upstream import Answer, Held, Upstream
from tests.service.conftest import ASKED, Live, live, write


def test_what_cannot_run_is_said_before_anything_is_opened(
    tmp_path: Path, upstream: Upstream
) -> None:
    configured = read_config(write(tmp_path, upstream))
    with serving.bound(configured.config.listen) as made:
        made.listen()
        port = made.getsockname()[1]
        taken = read_config(configured.path, overrides={"listen": {"port": port}})
        with pytest.raises(ConfigurationError, match="in use"):
            serving.serve(taken)
    with pytest.raises(ConfigurationError, match="1 or more"):
        serving.serve(configured, workers=0)
    assert not (tmp_path / "ledger.db").exists()


# --- what would run


def test_what_would_run_is_described_without_asking(tmp_path: Path, upstream: Upstream) -> None:
    more = (
        "    audits: {rate: 0.1, daily_usd: 1}\n    sticky: true\n    mode: canary\n"
        "    private: looks_personal\n    tool_risks: {pay: irreversible}\n    drift: warn\n"
        "    fallback: {model: 'ollama:x'}\n    abort: true\n"
    )
    path = write(tmp_path, upstream, more)
    path.write_text(re.sub(r", price: \{input: 1,[^}]*\}", "", path.read_text()))
    lines = "\n".join(describe(read_config(path)))
    assert "support: accept from a score of 0.8 on; the score is not calibrated, canary" in lines
    assert "small: openai:small (this machine)" in lines
    assert "it has no price; each call counts $0.01 for budgets" in lines
    assert upstream.seen == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("threshold: 0.8", "calibrator: gone.json", r"cascades\.support: "),
        ("ledger.db", "gone/ledger.db", "there is no folder"),
        ("ledger: sqlite:///ledger.db", "auth: false", "audits need a ledger"),
        ("UPSTREAM_KEY", "NO_SUCH_KEY", "NO_SUCH_KEY is not set"),
    ],
)
def test_a_service_that_cannot_run_says_why(
    tmp_path: Path, upstream: Upstream, old: str, new: str, said: str
) -> None:
    path = write(tmp_path, upstream, "    audits: 0.1\n")
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises((ConfigurationError, LedgerError), match=said):
        describe(read_config(path))


# --- connections


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "ARRIVE_S", 0.5)


def _connect(running: Live) -> socket.socket:
    host, port = running.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=300)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n", b"408"),  # it never ends
        (b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{", b"408"),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000, b"431"),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000, b"431"),
        (b"nonsense\r\n\r\n", b"400"),
    ],
)
def test_slow_and_endless_requests_are_cut_off(
    short: None, running: Live, sent: bytes, status: bytes
) -> None:
    with _connect(running) as connection:
        connection.sendall(sent)
        assert connection.recv(65536).split(b" ", 2)[1] == status


def test_a_client_that_reads_nothing_is_cut_off(short: None, running: Live) -> None:
    with _connect(running) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200" in connection.recv(65536)
        loop, server = running.app.state.gateway.loop, running.server
        for protocol in list(server.server_state.connections):
            loop.call_soon_threadsafe(protocol.pause_writing)
        with suppress(ConnectionError):
            assert connection.recv(65536) == b""


def test_more_requests_than_there_are_places_are_refused(
    tmp_path: Path, upstream: Upstream
) -> None:
    overrides: Any = {"auth": False, "listen": {"connections": 2}}
    with live(write(tmp_path, upstream), **overrides) as made, _connect(made):
        assert httpx.get(f"{made.url}/healthz").status_code == 503


# --- logs


def test_a_log_line_is_one_line_whatever_is_in_it() -> None:
    record = logging.makeLogRecord(
        {"msg": "a\nb\x1b[2J", "levelname": "INFO", "run": {"run_id": "r"}}
    )
    text = serving.Lines(as_json=False).format(record)
    assert text.splitlines()[1] == "    b\\x1b[2J"
    said = json.loads(serving.Lines(as_json=True).format(record))
    assert (said["message"], said["run_id"]) == ("a\nb\x1b[2J", "r")


def test_logs_go_to_standard_error_and_no_client_of_a_provider_writes_there(
    tmp_path: Path, upstream: Upstream
) -> None:
    before = logging.root.handlers[:], logging.root.level, logging.getLogger("cascade").level
    try:
        serving.set_up_logs(read_config(write(tmp_path, upstream)).config.log)
        assert logging.getLogger("httpx").getEffectiveLevel() == logging.WARNING
        assert logging.getLogger("cascade").isEnabledFor(logging.INFO)
    finally:
        logging.root.handlers[:] = before[0]
        logging.root.setLevel(before[1])
        logging.getLogger("cascade").setLevel(before[2])


# --- several processes


@contextmanager
def two_workers(tmp_path: Path, upstream: Upstream) -> Iterator[tuple[Any, Callable[[], int]]]:
    """A service of two processes under a third one, and a way to ask it."""
    path = write(tmp_path, upstream)
    with serving.bound(read_config(path).config.listen) as probe:
        port = probe.getsockname()[1]

    async def make() -> str:
        keys = Keys(f"sqlite:///{tmp_path}/ledger.db")
        try:
            return (await keys.create("team"))[1]
        finally:
            await keys.aclose()

    url, headers = f"http://127.0.0.1:{port}", {"Authorization": f"Bearer {asyncio.run(make())}"}

    def ask() -> int:
        body = {"model": "support", "messages": ASKED}
        said = httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=300)
        return said.status_code

    program = Path(sys.executable).with_name("cascade")
    process = subprocess.Popen(
        [str(program), "serve", str(path), "--port", str(port), "--workers", "2"],
        env={**os.environ, "UPSTREAM_KEY": "k"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        end = time.monotonic() + 300
        while True:
            try:
                httpx.get(f"{url}/readyz", timeout=5)
                break
            except httpx.TransportError:
                assert time.monotonic() < end
                time.sleep(0.1)
        yield process, ask
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(300)


@pytest.mark.heavy
def test_two_workers_share_keys_and_budgets_and_finish_what_runs(
    tmp_path: Path, upstream: Upstream
) -> None:
    held = Held()
    with two_workers(tmp_path, upstream) as (process, ask), ThreadPoolExecutor(4) as pool:
        upstream.says("small", Answer("Canberra", held=held))
        asking = [pool.submit(ask) for _ in range(4)]
        upstream.wait_for(4, "small")
        process.send_signal(signal.SIGTERM)
        time.sleep(1.0)
        held.release()
        assert [one.result(300) for one in asking] == [200] * 4
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said


@pytest.mark.heavy
def test_workers_leave_when_their_parent_was_killed(tmp_path: Path, upstream: Upstream) -> None:
    with two_workers(tmp_path, upstream) as (process, ask):
        assert ask() == 200
        process.kill()
        process.stderr.read()  # to its end, which comes when the last of them has left
        with pytest.raises(httpx.ConnectError):
            ask()


# --- Ray Serve


def test_a_replica_is_a_gateway_of_its_own(
    tmp_path: Path, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "set_up_logs", lambda config: None)
    path = write(tmp_path, upstream)
    replica = ray_serve.Gateway("gone.yaml", str(path))
    made = replica.__serve_build_asgi_app__()
    assert "support" in made.state.gateway.served


@pytest.mark.filterwarnings("ignore")  # Ray's own
@pytest.mark.parametrize(
    ("top", "arguments", "said"),
    [
        ("auth: false\n", {}, "one process on loopback"),
        ("", {"max_replicas": 2}, "in PostgreSQL"),
        ("", {"replicas": 2}, "the arguments are config"),
        ("", {"max_replicas": 0}, "max_replicas"),
    ],
)
def test_without_keys_or_a_shared_ledger_there_are_no_replicas(
    tmp_path: Path, upstream: Upstream, top: str, arguments: dict[str, Any], said: str
) -> None:
    path = write(tmp_path, upstream, top=top)
    with pytest.raises(ConfigurationError, match=said):
        ray_serve.app({"config": str(path), **arguments})


@pytest.mark.heavy
def test_ray_serve_answers_through_a_replica(tmp_path: Path, upstream: Upstream) -> None:
    code = f"""
import asyncio, httpx, json, sys
from ray import serve
from cascade.service import Keys
from cascade.service.ray_serve import app
import ray
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
async def make():
    keys = Keys("sqlite:///{tmp_path}/ledger.db")
    try: return (await keys.create("team"))[1]
    finally: await keys.aclose()
secret = asyncio.run(make())
serve.start(http_options={{"port": 18473}})
serve.run(app({{"config": {str(write(tmp_path, upstream))!r}}}))
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
