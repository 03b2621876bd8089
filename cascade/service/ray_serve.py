"""The gateway as an application of Ray Serve: autoscaled replicas on one PostgreSQL, by
`serve run cascade.service.ray_serve:app config=cascade.yaml max_replicas=4`."""

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, Field

from cascade.errors import ConfigurationError, MissingDependencyError
from cascade.service.app import create_app, set_up_logs
from cascade.service.config import read_config


class Arguments(BaseModel, extra="forbid"):
    """Arguments of `serve run`."""

    config: str = "cascade.yaml"
    min_replicas: int = Field(default=1, ge=1)
    max_replicas: int = Field(default=1, ge=1)


class GatewayReplica:
    """The gateway in one process, which may work in another folder than who built it: of the
    places of its configuration, the first that is there counts."""

    def __init__(self, *places: str) -> None:
        self._path = next((each for each in places if Path(each).exists()), places[0])

    def __serve_build_asgi_app__(self) -> FastAPI:  # called by Ray once in each replica
        config = read_config(self._path)
        set_up_logs(config.log)
        return create_app(config)


def app(arguments: Arguments) -> Any:  # Ray reads the words of a command by this type
    """The gateway in Serve's terms; a `ConfigurationError` where it cannot work with so many
    replicas."""
    try:
        from ray import serve  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingDependencyError(f"for Ray Serve install the extra `ray` ({error}).") from error

    path, replicas = arguments.config, arguments.max_replicas
    config = read_config(path)
    if not config.auth:
        raise ConfigurationError(
            f"{path}: auth: false is for one process on loopback; Ray Serve's proxies "
            "listen for others. Leave it out, and make keys."
        )
    if replicas > 1 and not (config.ledger or "").startswith("postgres"):
        raise ConfigurationError(
            f"max_replicas={replicas}: replicas share keys, budgets and the ledger in "
            "PostgreSQL: set ledger to postgresql://…, or max_replicas=1."
        )
    places = min(each.concurrency for each in config.cascades.values())
    deployment: Any = serve.deployment(
        serve.ingress()(GatewayReplica),
        name="Gateway",
        autoscaling_config={
            "min_replicas": arguments.min_replicas,
            "max_replicas": replicas,
            "target_ongoing_requests": max(1.0, 0.7 * places),  # a new replica takes seconds
            "upscale_delay_s": 5.0,  # Ray's 30 s are as long as a request waits for its place
        },
        max_ongoing_requests=config.listen.connections,
        max_queued_requests=config.listen.connections,
        # Ray waits for the requests under way, then the replica for audits and the ledger.
        graceful_shutdown_timeout_s=2 * config.shutdown_grace_s + 5.0,
    )
    return deployment.bind(path, str(Path(path).resolve()))
