"""The gateway as an application of Ray Serve: autoscaled replicas on one PostgreSQL.

    serve run cascade.service.ray_serve:app config=cascade.yaml max_replicas=4

Ray Serve's proxies listen, queue and spread requests; each replica is a gateway of its own, with
the application of `create_app` whole. What replicas have to agree on is in the ledger's database.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from cascade.errors import ConfigurationError, MissingDependencyError
from cascade.service.config import CascadeConfig, ServiceConfig, TierResilience
from cascade.service.faults import RETRY_AFTER_S
from cascade.service.ray_serve_checks import refuse_for_serve, refuse_unshared
from cascade.service.ray_serve_replica import Gateway
from cascade.service.reading import read_settings

if TYPE_CHECKING:
    from ray.serve import Application, Deployment

__all__ = ["DEPLOYMENT", "app", "build_app", "scaling"]

DEPLOYMENT = "Gateway"
"""By which a Serve configuration names it under `deployments`."""

FILLED = 0.7
"""Share of the places of a replica that autoscaling aims at: a new replica takes seconds to come,
and until then the rest of the places is what there is."""

SCALING: Mapping[str, float] = {
    "min_replicas": 1,
    "max_replicas": 1,
    "upscale_delay_s": 5.0,
    "look_back_period_s": 15.0,
    "downscale_delay_s": 300.0,
}
"""Where Ray's own defaults are others: it waits 30 s before it scales up, which is as long as a
request may wait in a queue here."""

ASIDE = 64
"""Requests of a replica that ask nothing: health, metrics, the page, `/admin`."""

TAIL_S = 5.0
"""Between the last answer of a replica and its end."""


def build_app(arguments: Mapping[str, Any]) -> Application:
    """The gateway in Serve's terms; `serve run cascade.service.ray_serve:app key=value …`.

    Args:
        arguments: `config`, the configuration's path, by default `cascade.yaml`; a relative one is
            looked for in a replica's working directory, then in that of whoever builds. All
            others are fields of Ray's `AutoscalingConfig`, such as `max_replicas`; what is not
            given follows from the configuration, see `scaling`.

    Raises:
        ConfigurationError: the configuration cannot work, or not with so many replicas.
        MissingDependencyError: the extra `ray-serve` is not installed.
    """
    require_ray()
    from ray import serve  # noqa: PLC0415 - an extra

    given = {name: value for name, value in arguments.items() if name != "config"}
    path = str(arguments.get("config", "cascade.yaml"))
    settings = read_settings(path)
    refuse_for_serve(settings)
    autoscaling = _autoscaling(settings.config, given)
    if autoscaling["max_replicas"] > 1:
        refuse_unshared(settings.config, f"max_replicas={autoscaling['max_replicas']}")
    places = _most_ongoing(settings.config)
    made = serve.deployment(
        serve.ingress()(Gateway),
        name=DEPLOYMENT,
        autoscaling_config=autoscaling,
        max_ongoing_requests=places,
        # Only while no replica has a place: then the proxies refuse as the gates do.
        max_queued_requests=places,
        backpressure_config={"status_code": 429, "retry_after_s": RETRY_AFTER_S},
        # Ray waits for the requests under way, then the replica for audits and the ledger.
        graceful_shutdown_timeout_s=2 * settings.config.shutdown_grace_s + TAIL_S,
        graceful_shutdown_wait_loop_s=0.5,
        max_constructor_retry_count=3,
    )
    deployment = cast("Deployment", made)  # Ray says that it is a function
    return deployment.bind(path, str(Path(path).resolve()))


app = build_app
"""`cascade.service.ray_serve:app`, where a Serve configuration says `import_path`."""


def scaling(config: ServiceConfig) -> dict[str, float]:
    """How the number of replicas follows the load, where nobody says it.

    `target_ongoing_requests` is `FILLED` of the places of the narrowest cascade: the requests that
    it runs at once, or the calls that its first tier takes at once, if those are fewer. So the
    next replica is on its way before a gate is full, whichever cascade is asked.
    """
    places = min(_places(cascade) for cascade in config.cascades.values())
    return {**SCALING, "target_ongoing_requests": max(1.0, FILLED * places)}


def require_ray() -> None:
    """Refuse without Ray Serve.

    Raises:
        MissingDependencyError: the extra `ray-serve` is not installed.
    """
    try:
        import ray.serve  # noqa: F401, PLC0415 - an extra
    except ImportError as error:
        raise MissingDependencyError(
            f'Ray Serve is needed ({error}): pip install "agent-cascade[ray-serve]".'
        ) from error


def _autoscaling(config: ServiceConfig, given: Mapping[str, Any]) -> dict[str, Any]:
    """Ray's `AutoscalingConfig` as data, of what follows from the service and what was said.

    Raises:
        ConfigurationError: there is no such field, or no such value of it.
    """
    from pydantic import ValidationError  # noqa: PLC0415 - beside Ray's
    from ray.serve.config import AutoscalingConfig  # noqa: PLC0415 - an extra

    fields = AutoscalingConfig.model_fields
    if unknown := sorted(set(given) - set(fields)):
        raise ConfigurationError(
            f"{', '.join(unknown)}: there is no such argument; there are config, "
            f"{', '.join(fields)}."
        )
    said: dict[str, Any] = {**scaling(config), **given}
    if "max_replicas" not in given:  # more at the start than that is more at the most
        said["max_replicas"] = max(int(said["max_replicas"]), _number(said["min_replicas"]))
    try:
        return AutoscalingConfig.model_validate(said).model_dump(include=set(said))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(f"{name or 'replicas'}: {first['msg']}") from None


def _number(given: object) -> int:
    text = str(given)
    return int(text) if text.isdecimal() else 0


def _places(config: CascadeConfig) -> int:
    """Requests of a cascade that are under way at once: each asks its first tier first."""
    first, shared = config.tiers[0], config.resilience
    name = first.name or ("small" if len(config.tiers) == 2 else first.model)
    doors: TierResilience = shared.tiers.get(name, shared)
    most = config.concurrency if doors.bulkhead is False else doors.bulkhead.most
    return min(config.concurrency, most)


def _most_ongoing(config: ServiceConfig) -> int:
    """Requests that a replica may be sent: all that its gates let in or let wait. They refuse one
    more themselves, in the words of its protocol, and one cascade's crowd takes no other's place.
    """
    gates = [
        (cascade.concurrency + cascade.queue)
        * (1 + (len(cascade.tiers) if config.allow_tiers else 0))
        for cascade in config.cascades.values()
    ]
    return sum(gates) + ASIDE
