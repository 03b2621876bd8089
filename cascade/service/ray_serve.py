"""The gateway as an application of Ray Serve: autoscaled replicas on one PostgreSQL.

    serve run cascade.service.ray_serve:app config=cascade.yaml max_replicas=4

Ray Serve's proxies listen, queue and spread requests; each replica is a gateway of its own. Keys
and budgets are shared through the ledger's database.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import ValidationError

from cascade.errors import ConfigurationError, MissingDependencyError
from cascade.service.config import ServiceConfig, read_config

if TYPE_CHECKING:
    from fastapi import FastAPI
    from ray.serve import Application, Deployment

FILLED = 0.7
"""Share of a replica's places that autoscaling aims at: a new replica takes seconds to come."""

SCALING: Mapping[str, float] = {
    "min_replicas": 1,
    "max_replicas": 1,
    "upscale_delay_s": 5.0,
    "look_back_period_s": 15.0,
    "downscale_delay_s": 300.0,
}
"""Where Ray's own defaults are others: it waits 30 s before it scales up, as long as a request may
wait in a queue here."""

ASIDE = 64
"""Requests of a replica that ask nothing: health, metrics, the page, `/admin`."""

TAIL_S = 5.0
"""Seconds between the last answer of a replica and its end."""


class Gateway:
    """One replica: the whole gateway in one process.

    Args:
        path: of the configuration, as it was given.
        built_at: the same where the application was built, for replicas that work elsewhere.
    """

    def __init__(self, path: str, built_at: str) -> None:
        self._path = path if Path(path).exists() else built_at

    def __serve_build_asgi_app__(self) -> FastAPI:
        """The application; called by Ray once in each replica."""
        from cascade.service.app import create_app  # noqa: PLC0415 - heavy
        from cascade.service.serving import set_up_logs  # noqa: PLC0415 - heavy

        configured = read_config(self._path)
        set_up_logs(configured.config.log)
        return create_app(configured)


def build_app(arguments: Mapping[str, Any]) -> Application:
    """The gateway in Serve's terms; `serve run cascade.service.ray_serve:app key=value …`.

    Args:
        arguments: `config`, the configuration's path, by default `cascade.yaml`. All others are
            fields of Ray's `AutoscalingConfig`, such as `max_replicas`; what is not given follows
            from the configuration, see `scaling`.

    Raises:
        ConfigurationError: the configuration cannot work, or not with so many replicas.
        MissingDependencyError: the extra `ray-serve` is not installed.
    """
    try:
        from ray import serve  # noqa: PLC0415 - an extra
        from ray.serve.config import AutoscalingConfig  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingDependencyError(
            f"Ray Serve is needed ({error}): install the extra `ray-serve`."
        ) from error
    path = str(arguments.get("config", "cascade.yaml"))
    config = read_config(path).config
    said = {**scaling(config), **arguments}
    said.pop("config", None)
    if unknown := said.keys() - AutoscalingConfig.model_fields.keys():
        there = ", ".join(AutoscalingConfig.model_fields)
        raise ConfigurationError(f"{unknown.pop()}: no such argument; config, {there} are.")
    try:
        autoscaling = AutoscalingConfig.model_validate(said).model_dump(include=set(said))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(f"{name or 'replicas'}: {first['msg']}") from None
    _check(path, config, autoscaling["max_replicas"])
    places = ASIDE + sum(c.concurrency + c.queue for c in config.cascades.values())
    made = serve.deployment(
        serve.ingress()(Gateway),
        name="Gateway",
        autoscaling_config=autoscaling,
        max_ongoing_requests=places,
        max_queued_requests=places,
        # Ray waits for the requests under way, then the replica for audits and the ledger.
        graceful_shutdown_timeout_s=2 * config.shutdown_grace_s + TAIL_S,
        graceful_shutdown_wait_loop_s=0.5,
        max_constructor_retry_count=3,
    )
    deployment = cast("Deployment", made)  # Ray says that it is a function
    return deployment.bind(path, str(Path(path).resolve()))


app = build_app
"""`cascade.service.ray_serve:app`, where a Serve configuration says `import_path`."""


def scaling(config: ServiceConfig) -> dict[str, float]:
    """How the number of replicas follows the load: `target_ongoing_requests` is `FILLED` of the
    places of the narrowest cascade, so that the next one is on its way before a gate is full."""
    places = min(cascade.concurrency for cascade in config.cascades.values())
    return {**SCALING, "target_ongoing_requests": max(1.0, FILLED * places)}


def _check(path: str, config: ServiceConfig, replicas: float) -> None:
    if not config.auth:
        raise ConfigurationError(
            f"{path}: auth: false is for one process on loopback; Ray Serve's proxies listen for "
            "others. Leave it out, and make keys."
        )
    if replicas > 1 and not (config.ledger and config.ledger.url.startswith("postgres")):
        raise ConfigurationError(
            f"max_replicas={replicas:g}: replicas share keys, budgets and the ledger in "
            "PostgreSQL: set ledger to postgresql://…, or max_replicas=1."
        )
