"""What a configuration may not say where Ray Serve runs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cascade.errors import ConfigurationError
from cascade.oversight.shadow import MODES, Mode
from cascade.service.config import ServiceConfig
from cascade.service.reading import Settings
from cascade.service.shared import is_shared

__all__ = ["modes_in", "refuse_for_serve", "refuse_unshared"]


def refuse_unshared(config: ServiceConfig, wanted: str) -> None:
    """Refuse what several replicas would each do for themselves.

    Raises:
        ConfigurationError: the ledger, with the keys and what they have spent, is not in a
            database that they share.
    """
    url = "" if config.ledger is None else config.ledger.url
    if not is_shared(url):
        scheme = url.partition(":")[0]
        raise ConfigurationError(
            f"{wanted}, but the ledger is {f'in {scheme}:' if scheme else 'nowhere'}: each replica "
            "would count budgets for itself. Set ledger to postgresql://…, or max_replicas to 1."
        )


def refuse_for_serve(settings: Settings) -> None:
    """Refuse what does nothing where Serve's proxies listen.

    Raises:
        ConfigurationError: a key of `listen` that a proxy would not look at, or no keys asked for.
    """
    config = settings.config
    idle = sorted(config.listen.model_fields_set - {"proxies"})
    if idle:
        raise ConfigurationError(
            f"{settings.path}: {', '.join(f'listen.{name}' for name in idle)}: Ray Serve's proxies "
            "listen. Leave it out, and set host and port under http_options of the Serve "
            "configuration."
        )
    if not config.auth:
        raise ConfigurationError(
            f"{settings.path}: auth=false: a replica cannot know that the proxies listen on this "
            "machine alone. Let it ask for keys."
        )


def modes_in(user_config: object, config: ServiceConfig) -> Mapping[str, Mode]:
    """The mode of every cascade, of what a Serve configuration says under `user_config`.

    Raises:
        ConfigurationError: there is no such key, cascade or mode.
    """
    if not isinstance(user_config, Mapping):
        raise ConfigurationError(f"user_config={user_config!r}: should be {{modes: {{…}}}}.")
    said: Mapping[str, Any] = user_config
    if idle := sorted(set(said) - {"modes"}):
        way_out = (
            "calibrations are rolled out by `cascade calibration push`, to all replicas at once."
            if "calibrations" in idle
            else "there is modes."
        )
        raise ConfigurationError(f"user_config: there is no {', '.join(idle)}: {way_out}")
    modes = said.get("modes") or {}
    if not isinstance(modes, Mapping):
        raise ConfigurationError(f"user_config.modes={modes!r}: should be modes by cascade.")
    for name, mode in modes.items():
        if name not in config.cascades:
            raise ConfigurationError(
                f"user_config.modes: there is no cascade {name!r}; there are "
                f"{', '.join(config.cascades)}."
            )
        if mode not in MODES:
            raise ConfigurationError(
                f"user_config.modes.{name}={mode!r}: should be {', '.join(MODES)}."
            )
    return {name: modes.get(name, cascade.mode) for name, cascade in config.cascades.items()}
