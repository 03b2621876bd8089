"""What a configuration may not say where Ray Serve runs it."""

from __future__ import annotations

from cascade.errors import ConfigurationError
from cascade.service.config import ServiceConfig
from cascade.service.reading import Settings

__all__ = ["refuse_for_serve", "refuse_unshared"]


def refuse_unshared(config: ServiceConfig, wanted: str) -> None:
    """Refuse what several replicas would each do for themselves.

    Raises:
        ConfigurationError: the ledger, with the keys and what they have spent, is not in a
            database that they share.
    """
    scheme = "" if config.ledger is None else config.ledger.url.partition(":")[0]
    if not scheme.startswith("postgres"):
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
