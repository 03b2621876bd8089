"""The application that Ray Serve is given, and what is refused before anything is started."""

from __future__ import annotations

import asyncio
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import yaml
from fastapi import FastAPI

from cascade.errors import ConfigurationError, MissingDependencyError
from cascade.models import llamacpp_engine
from cascade.service import ServiceConfig, create_app
from cascade.service.ray_serve import app, build_app, scaling
from cascade.service.ray_serve_checks import modes_in
from cascade.service.ray_serve_replica import UNREADY_S, Fronted, Gateway, _refuse_a_mode_of_one

DEPLOY = Path(__file__).resolve().parents[2] / "deploy" / "ray"
SHARED = "postgresql://cascade@127.0.0.1:1/ledger"

with warnings.catch_warnings():  # of what it makes of pydantic when it is imported
    warnings.simplefilter("ignore")
    from ray.serve.schema import ServeDeploySchema


def written(folder: Path, **changes: Any) -> str:
    cascade = {"tiers": [{"model": "openai:small"}, {"model": "openai:large"}]}
    file = folder / "cascade.yaml"
    file.write_text(yaml.safe_dump({"ledger": SHARED, "cascades": {"support": cascade}, **changes}))
    return str(file)


def built(**arguments: Any) -> Any:
    """The deployment with all that Ray is told of it."""
    return build_app(arguments)._bound_deployment


def config(**cascade: Any) -> ServiceConfig:
    tiers = [{"model": "openai:small", "name": "draft"}, {"model": "openai:large"}]
    return ServiceConfig.model_validate({"cascades": {"support": {"tiers": tiers, **cascade}}})


def test_what_is_started_follows_from_the_configuration(tmp_path: Path) -> None:
    file = written(tmp_path, shutdown_grace_s=12)
    deployment = built(config=file, min_replicas="2", max_replicas="4")
    told = deployment._deployment_config
    assert (told.autoscaling_config.min_replicas, told.autoscaling_config.max_replicas) == (2, 4)
    assert told.autoscaling_config.target_ongoing_requests == pytest.approx(0.7 * 64)
    assert told.max_ongoing_requests >= 64 + 256  # its gates refuse, before Ray would
    assert told.graceful_shutdown_timeout_s > 2 * 12
    assert told.backpressure_config.status_code == 429


@pytest.mark.parametrize(
    ("cascade", "places"),
    [
        ({}, 64),
        ({"concurrency": 8}, 8),
        ({"resilience": {"bulkhead": {"most": 20}}}, 20),
        ({"resilience": {"tiers": {"draft": {"bulkhead": {"most": 5}}}}}, 5),
        ({"resilience": {"tiers": {"large": {"bulkhead": {"most": 5}}}}}, 64),
        ({"resilience": {"bulkhead": False}}, 64),
        ({"concurrency": 1}, 1 / 0.7),
    ],
)
def test_autoscaling_aims_below_the_narrowest_bulkhead(cascade: Any, places: float) -> None:
    assert scaling(config(**cascade))["target_ongoing_requests"] == pytest.approx(0.7 * places)


def test_the_narrowest_cascade_counts_and_every_gate_has_room(tmp_path: Path) -> None:
    tiers = [{"model": "openai:small"}, {"model": "openai:large"}]
    both = {
        "wide": {"tiers": tiers, "concurrency": 100, "queue": 10},
        "narrow": {"tiers": tiers, "concurrency": 10, "queue": 5},
    }
    told = built(config=written(tmp_path, cascades=both, allow_tiers=True))._deployment_config
    assert told.autoscaling_config.target_ongoing_requests == pytest.approx(7)
    assert told.max_ongoing_requests >= 3 * (110 + 15)


def test_more_replicas_at_least_are_more_at_most(tmp_path: Path) -> None:
    told = built(config=written(tmp_path), min_replicas=3)._deployment_config
    assert told.autoscaling_config.max_replicas == 3


@pytest.mark.parametrize(
    ("changes", "arguments", "words"),
    [
        ({"ledger": "sqlite:///l.db"}, {"max_replicas": 2}, "postgresql://"),
        ({"ledger": "sqlite:///l.db"}, {"min_replicas": 2}, "max_replicas to 1"),
        ({}, {"max_replica": 2}, "max_replica: there is no such argument"),
        ({}, {"max_replicas": "many"}, "max_replicas"),
        ({}, {"min_replicas": 3, "max_replicas": 2}, "max_replicas"),
        ({"listen": {"port": 9000}}, {}, "listen.port: Ray Serve's proxies listen"),
        ({"auth": False}, {}, "auth=false"),
        ({"cascades": {}}, {}, "cascades"),
    ],
)
def test_what_cannot_work_is_refused(
    tmp_path: Path, changes: Any, arguments: Any, words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        build_app({"config": written(tmp_path, **changes), **arguments})


def test_one_replica_may_keep_its_ledger_in_a_file(tmp_path: Path) -> None:
    file = written(tmp_path, ledger="sqlite:///l.db", listen={"proxies": ["10.0.0.0/8"]})
    assert built(config=file)._deployment_config.autoscaling_config.max_replicas == 1


def test_without_ray_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray.serve", None)
    with pytest.raises(MissingDependencyError, match=r"agent-cascade\[ray-serve\]"):
        build_app({})


def test_the_configurations_of_deploy_are_ray_s_and_say_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {"LEDGER_URL": SHARED, "OLLAMA_URL": "http://127.0.0.1:1"}.items():
        monkeypatch.setenv(name, value)
    alone = yaml.safe_load((DEPLOY / "serve.yaml").read_text())
    service = yaml.safe_load((DEPLOY / "rayservice.yaml").read_text())
    within = yaml.safe_load(service["spec"]["serveConfigV2"])
    for said in (alone, within):
        (application,) = ServeDeploySchema.model_validate(said).applications
        assert application.import_path == f"{app.__module__}:app"
        assert [deployment.name for deployment in application.deployments] == ["Gateway"]
    assert alone["applications"][0]["args"].keys() == within["applications"][0]["args"].keys()
    arguments = alone["applications"][0]["args"]
    deployment = built(**{**arguments, "config": str(DEPLOY / "cascade.yaml")})
    grace_s = deployment._deployment_config.graceful_shutdown_timeout_s
    group = service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]
    assert group["template"]["spec"]["terminationGracePeriodSeconds"] > grace_s


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"calibrations": {"support": 3}}, "cascade calibration push"),
        ({"threshold": 1}, "there is modes"),
        ({"modes": {"suport": "live"}}, "there is no cascade 'suport'; there are support"),
        ({"modes": {"support": "alive"}}, "should be live"),
        ({"modes": "live"}, "modes by cascade"),
        ("live", "user_config"),
    ],
)
def test_a_user_config_that_means_nothing_is_refused(said: object, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        modes_in(said, config())


def replica(service: object) -> Gateway:
    made = Gateway("cascade.yaml", "cascade.yaml")
    warming = asyncio.get_running_loop().create_future()
    warming.set_result(None)
    state = SimpleNamespace(service=service, warming=warming)
    made._app = SimpleNamespace(state=state)  # type: ignore[assignment]
    return made


async def test_modes_of_all_replicas_go_back_to_the_configuration() -> None:
    cascade = SimpleNamespace(mode="live")
    service = SimpleNamespace(config=config(), served={"support": SimpleNamespace(cascade=cascade)})
    made = replica(service)
    await made.reconfigure({"modes": {"support": "shadow"}})
    assert cascade.mode == "shadow"
    await made.reconfigure({})
    assert cascade.mode == "live"


async def test_a_database_that_is_away_for_a_while_restarts_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Away:
        async def reach(self) -> bool:
            raise TimeoutError

    made = replica(SimpleNamespace(keys=Away()))
    await made.check_health()
    later = time.monotonic() + UNREADY_S + 1
    monkeypatch.setattr("cascade.service.ray_serve_replica.time.monotonic", lambda: later)
    with pytest.raises(RuntimeError, match="has not answered for 12"):
        await made.check_health()


async def test_a_replica_is_asked_once_it_is_warm() -> None:
    class There:
        async def reach(self) -> bool:
            return True

    made = replica(SimpleNamespace(keys=There()))
    assert made._app is not None
    made._app.state.warming = asyncio.get_running_loop().create_future()
    asked = asyncio.create_task(made.check_health())
    await asyncio.sleep(0.05)
    assert not asked.done()
    made._app.state.warming.set_result(None)
    await asked


async def test_a_mode_of_one_replica_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-a-test")
    one = config().model_copy(update={"auth": False})
    made = create_app(one)
    _refuse_a_mode_of_one(made)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(made), base_url="http://here"
    ) as client:
        refused = await client.put("/admin/cascades/support/mode", json={"mode": "live"})
    assert refused.status_code == 409
    assert "user_config: {modes: {support:" in refused.json()["error"]["message"]
    await made.state.service.aclose()


async def test_a_page_s_stream_ends_whole_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cascade.service.ray_serve_replica.WATCHED_S", 0.05)
    inner, sent = FastAPI(), list[Any]()

    @inner.get("/page/api/events")
    async def watch() -> Any:
        from starlette.responses import StreamingResponse  # noqa: PLC0415

        async def endless() -> Any:
            while True:
                yield b": here\n\n"
                await asyncio.sleep(0.01)

        return StreamingResponse(endless(), headers={"X-Request-Id": "its own"})

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "GET", "path": "/page/api/events", "headers": [],
        "query_string": b"", "asgi": {"spec_version": "2.3"},
    }  # fmt: skip
    async with asyncio.timeout(5):
        await Fronted(inner)(scope, receive, send)
    assert b"x-request-id" not in dict(sent[0]["headers"])
    assert sent[-1] == {"type": "http.response.body", "body": b""}


async def test_a_route_prefix_is_taken_off() -> None:
    seen = list[tuple[str, str]]()

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        del receive, send
        seen.append((scope["path"], scope["root_path"]))

    async def nothing(*_: Any) -> Any:
        raise AssertionError

    for path, prefix in (("/v1/models", ""), ("/at/v1/models", "/at"), ("/atlas", "/at")):
        await Fronted(inner)({"type": "http", "path": path, "root_path": prefix}, nothing, nothing)
    assert seen == [("/v1/models", ""), ("/v1/models", ""), ("/atlas", "/at")]


@pytest.mark.live
async def test_an_embedded_model_is_loaded_once_in_a_replica_before_it_is_asked() -> None:
    embedded = {"tiers": [{"model": "llamacpp:smollm2-135m"}]}
    one = {"auth": False, "cascades": {"first": embedded, "second": embedded}}
    made = create_app(ServiceConfig.model_validate(one))
    asked = replica(made.state.service)
    before = len(llamacpp_engine._engines)
    async with made.router.lifespan_context(made):
        asked._app = made
        await asked.check_health()
        assert made.state.warming.done()
        assert len(llamacpp_engine._engines) == before + 1
