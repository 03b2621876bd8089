"""Running a service: its command, its processes, and Ray Serve."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from cascade.errors import ConfigurationError, LedgerError
from cascade.service import Keys, describe, ray_serve, read_config, serving
from cascade.service.__main__ import main
from tests.acceptance.upstream import Answer, Held, Upstream
from tests.service.conftest import ASKED, write


def test_the_command_says_what_would_run_and_what_is_wrong(
    tmp_path: Path,
    upstream: Upstream,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = write(tmp_path, upstream)
    monkeypatch.setattr(sys, "argv", ["x", str(path), "--check", "--no-auth", "--port", "9"])
    main()
    assert "listens on 127.0.0.1:9, asks for no key" in capsys.readouterr().out
    path.write_text(path.read_text().replace("threshold", "threshhold"))
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "threshhold" in capsys.readouterr().err


def test_a_port_that_is_taken_is_said_before_anything_is_opened(
    tmp_path: Path, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured = read_config(write(tmp_path, upstream))
    with serving.bound(configured.config.listen) as made:
        made.listen()
        port = made.getsockname()[1]
        taken = read_config(configured.path, overrides={"listen": {"port": port}})
        with pytest.raises(ConfigurationError, match="in use"):
            serving.serve(taken)
    with pytest.raises(ConfigurationError, match="a port of its own"):
        serving.serve(configured, workers=2)
    assert not (tmp_path / "ledger.db").exists()


def test_a_service_runs_until_it_is_told_to_stop(
    tmp_path: Path, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers: list[serving.GatewayServer] = []
    original = serving.GatewayServer.__init__

    def remember(self: Any, *args: Any) -> None:
        original(self, *args)
        servers.append(self)

    monkeypatch.setattr(serving.GatewayServer, "__init__", remember)
    monkeypatch.setattr(serving, "set_up_logs", lambda config: None)
    configured = read_config(write(tmp_path, upstream), overrides={"auth": False})
    running = threading.Thread(target=serving.serve, args=(configured,))
    running.start()
    end = time.monotonic() + 30
    while not (servers and servers[0].started):
        assert time.monotonic() < end
        time.sleep(0.01)
    servers[0].handle_exit(signal.SIGTERM, None)
    running.join(30)
    assert not running.is_alive()


def test_a_ledger_without_a_folder_is_named(tmp_path: Path, upstream: Upstream) -> None:
    path = write(tmp_path, upstream)
    path.write_text(path.read_text().replace("ledger.db", "gone/ledger.db"))
    with pytest.raises(LedgerError, match="there is no folder"):
        describe(read_config(path))


def test_a_tier_without_a_price_is_remarked(tmp_path: Path, upstream: Upstream) -> None:
    path = write(tmp_path, upstream)
    path.write_text(re.sub(r", price: \{[^}]*\}", "", path.read_text()))
    assert any("it has no price" in line for line in describe(read_config(path)))


@pytest.mark.heavy
def test_two_workers_share_keys_and_budgets_and_finish_what_runs(
    tmp_path: Path, upstream: Upstream
) -> None:
    with serving.bound(read_config(write(tmp_path, upstream)).config.listen) as probe:
        port = probe.getsockname()[1]
    path = write(tmp_path, upstream)

    async def make() -> str:
        keys = Keys(f"sqlite:///{tmp_path}/ledger.db")
        try:
            return (await keys.create("team"))[1]
        finally:
            await keys.aclose()

    secret = asyncio.run(make())
    process = subprocess.Popen(
        [sys.executable, "-m", "cascade.service", str(path), "--port", str(port), "--workers", "2"],
        env={**os.environ, "UPSTREAM_KEY": "k"},
        stderr=subprocess.PIPE,
        text=True,
    )
    url, headers = f"http://127.0.0.1:{port}", {"Authorization": f"Bearer {secret}"}
    held = Held()
    try:
        end = time.monotonic() + 300
        while True:
            try:
                httpx.get(f"{url}/readyz", timeout=5)
                break
            except httpx.TransportError:
                assert time.monotonic() < end
                time.sleep(0.1)
        upstream.says("small", Answer("Canberra", held=held))
        answers: list[int] = []

        def ask() -> None:
            body = {"model": "support", "messages": ASKED}
            said = httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=60)
            answers.append(said.status_code)

        asking = [threading.Thread(target=ask) for _ in range(4)]
        for one in asking:
            one.start()
        upstream.wait_for(4, "small")
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        held.release()
        for one in asking:
            one.join(60)
        _, said = process.communicate(timeout=60)
    finally:
        held.release()
        process.kill()
    assert answers == [200] * 4
    assert process.returncode == 0, said


# --- Ray Serve


def test_a_replica_is_a_gateway_of_its_own(
    tmp_path: Path, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "set_up_logs", lambda config: None)
    path = write(tmp_path, upstream)
    replica = ray_serve.Gateway("gone.yaml", str(path))
    made = replica.__serve_build_asgi_app__()
    assert "support" in made.state.gateway.served
    asyncio.run(replica.check_health())


def test_scaling_follows_the_narrowest_cascade(tmp_path: Path, upstream: Upstream) -> None:
    config = read_config(write(tmp_path, upstream, "    concurrency: 10\n")).config
    assert ray_serve.scaling(config)["target_ongoing_requests"] == 7


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_without_keys_or_a_shared_ledger_there_are_no_replicas(
    tmp_path: Path, upstream: Upstream
) -> None:
    path = write(tmp_path, upstream, top="auth: false\n")
    with pytest.raises(ConfigurationError, match="one process on loopback"):
        ray_serve.build_app({"config": str(path)})
    path = write(tmp_path, upstream)
    with pytest.raises(ConfigurationError, match="in PostgreSQL"):
        ray_serve.build_app({"config": str(path), "max_replicas": 2})
    with pytest.raises(ConfigurationError, match="no such argument"):
        ray_serve.build_app({"config": str(path), "replicas": 2})
    with pytest.raises(ConfigurationError, match="upscale_delay_s"):
        ray_serve.build_app({"config": str(path), "upscale_delay_s": -1})


@pytest.mark.heavy
def test_ray_serve_answers_through_a_replica(tmp_path: Path, upstream: Upstream) -> None:
    code = f"""
import asyncio, httpx, json, sys
from ray import serve
from cascade.service import Keys
from cascade.service.ray_serve import build_app
import ray
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
async def make():
    keys = Keys("sqlite:///{tmp_path}/ledger.db")
    try: return (await keys.create("team"))[1]
    finally: await keys.aclose()
secret = asyncio.run(make())
serve.start(http_options={{"port": 18473}})
serve.run(build_app({{"config": {str(write(tmp_path, upstream))!r}}}))
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
