"""From a configuration to cascades, and to a service."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade.agents.fallback import Queue, Step
from cascade.agents.shedding import Load, Shedding
from cascade.api import Cascade
from cascade.confidence.calibration import Calibration
from cascade.errors import CascadeError, ConfigurationError
from cascade.integrations.logs import RunLog
from cascade.ledger import Price
from cascade.ledger.store import Store, mask_secrets, open_store
from cascade.observing import Observer
from cascade.oversight import Audits, Drift
from cascade.policies import ThresholdPolicy
from cascade.privacy import looks_personal
from cascade.service.budgets import Budgets
from cascade.service.config import (
    AuditConfig,
    CascadeConfig,
    DriftConfig,
    LedgerConfig,
    ServiceConfig,
    TierConfig,
)
from cascade.service.enduring import Known, to_doors
from cascade.service.flight import Flights
from cascade.service.keys import Keys
from cascade.service.last_calls import LastCalls
from cascade.service.lessons import keeper_of, memories_of
from cascade.service.metrics import Metrics
from cascade.service.reading import masked
from cascade.service.recent import Recent
from cascade.service.reload import Reloads
from cascade.service.sections import QueueConfig, SheddingConfig
from cascade.service.service import Service
from cascade.service.serving import CASCADE_TAG, Gate, Served
from cascade.service.shared import Shared, is_shared
from cascade.teaching import Lessons
from cascade.tiers import Tier

if TYPE_CHECKING:
    from cascade.teaching.memory import Memory

_SAME_NAME = (
    "max_harm",
    "price_of_error",
    "escalation_budget",
    "deadline",
    "abort",
    "hedge",
    "latch",
    "response_format",
    "tool_risks",
    "audit_rate",
    "mode",
    "canary_share",
    "local_only",
    "signals",
)
"""Options that a cascade takes as they stand in its configuration."""


def build_service(config: ServiceConfig, folder: Path | None = None) -> Service:
    """A service with all its cascades; nothing is sent yet, and no database opened.

    Args:
        config: what to run.
        folder: what paths of calibrations are relative to; by default the current one.

    Raises:
        ConfigurationError: with all that cannot work, a line for each.
    """
    folder = folder or Path()
    store = None if config.ledger is None else open_ledger(config.ledger)
    keys = _keys(config)
    recent, flights, last_calls = Recent(config.recent), Flights(), LastCalls()
    shared, metrics = _shared(config, store, keys), Metrics()
    budgets = Budgets(store, config.budgets) if shared is None else shared.budgets
    watching = _watching(config, budgets, recent, flights, last_calls, metrics.cascades)
    known: Known = {}
    memories = memories_of(config, lessons := keeper_of(config))
    gates = {name: _gate(name, given) for name, given in config.cascades.items()}

    def build(name: str, calibration: Calibration | None = None) -> Cascade:
        parts: dict[str, Any] = {"known": known, "lessons": lessons, "memory": memories.get(name)}
        parts |= {"load": gates[name].pressure, "shared": shared is not None}
        parts["calibration"] = calibration
        return build_cascade(name, config.cascades[name], folder, store, watching, **parts)

    served, problems = _serve_all(config, build, gates, store, watching)
    if problems:
        raise ConfigurationError("\n".join(problems))
    files = {name: folder / c.calibrator for name, c in config.cascades.items() if c.calibrator}
    reloads = Reloads(served, files, build)
    if shared is not None:
        shared.keep(served, reloads, config.watch_s)
    service = Service(
        config=config,
        served=served,
        store=store,
        lessons=lessons,
        keys=keys,
        budgets=budgets,
        shared=shared,
        recent=recent,
        flights=flights,
        last_calls=last_calls,
        reloads=reloads,
        metrics=metrics,
    )
    metrics.watch(service)
    return service


def _watching(config: ServiceConfig, budgets: object, *always: Observer) -> list[Observer]:
    """Who hears of each run. Budgets that a database counts for all replicas do not."""
    counting = [budgets] if isinstance(budgets, Budgets) else []
    return [*always, *counting, *([RunLog()] if config.log.requests else [])]


def build_cascade(
    name: str,
    config: CascadeConfig,
    folder: Path,
    store: Store | None,
    observers: Sequence[Observer],
    known: Known | None = None,
    load: Load | None = None,
    *,
    calibration: Calibration | None = None,
    shared: bool = False,
    lessons: Lessons | None = None,
    memory: Memory | None = None,
) -> Cascade:
    """One cascade.

    Args:
        name: of the cascade.
        config: what was said of it.
        folder: what paths are relative to.
        store: of the ledger.
        observers: who look on.
        known: what it shares with others about the servers that both ask.
        load: the pressure that requests are under before they come to it.
        calibration: in place of that of its configuration.
        shared: whether other processes have the same cascade, with the same ledger.
        lessons: keeps what is to be learned from all cascades of the service.
        memory: shows lessons of this cascade to its small model; None for none.

    Raises:
        ConfigurationError: it cannot work; the message says why.
        MissingDependencyError: a package of an extra is not installed.
    """
    options: dict[str, Any] = {option: getattr(config, option) for option in _SAME_NAME}
    options["tags"] = {CASCADE_TAG: name, **config.tags}
    options["resilience"] = to_doors(config.resilience, {} if known is None else known)
    options["fallback"] = to_order(config)
    options["shedding"] = to_shedding(config.shedding, load)
    options["lessons"] = lessons if config.lessons else None
    options["memory"] = memory
    if config.threshold is not None:
        options["policy"] = ThresholdPolicy(config.threshold)
    if config.private is not None:
        options["private"] = looks_personal
    if calibration is not None:
        options["calibrator"] = calibration
    elif config.calibrator is not None:
        options["calibrator"] = folder / config.calibrator
    if config.reuse is not None:
        options["reuse"] = config.reuse if config.reuse == "correct" else folder / config.reuse
    if config.audits is not None:
        options["audit_rate"] = _audits(config.audits)
    drift = config.drift
    options["drift"] = Drift(**dict(drift)) if isinstance(drift, DriftConfig) else drift
    tiers = [open_config(tier, config.tiers, n) for n, tier in enumerate(config.tiers)]
    made = Cascade(tiers=tiers, ledger=store, observers=observers, name=name, **options)
    if shared and made.drift is not None:
        made.drift.share()
    return made


def open_config(config: TierConfig, among: Sequence[TierConfig], number: int) -> Tier:
    """A tier as its cascade takes it; of two without names, they are `small` and `large`.

    Raises:
        ConfigurationError: its price prices nothing, or its key is not in the environment.
    """
    pair = ("small", "large")[number] if len(among) == 2 else None
    price = None if config.price is None else Price(**config.price.model_dump(exclude_none=True))
    return Tier(
        config.model,
        name=config.name or pair,
        price=price,
        base_url=config.base_url,
        api_key=config.api_key or _from_environment(config.api_key_env, "api_key_env"),
        max_tokens=config.max_tokens,
        temperature=config.temperature,
        timeout_s=config.timeout_s,
        options=config.options,
        local=config.local,
    )


def _audits(config: AuditConfig) -> Audits:
    judge = None if config.judge is None else open_config(config.judge, (config.judge,), 0)
    return Audits(**{**dict(config), "judge": judge})


def _serve_all(
    config: ServiceConfig,
    build: Callable[[str], Cascade],
    gates: Mapping[str, Gate],
    store: Store | None,
    observers: Sequence[Observer],
) -> tuple[Mapping[str, Served], list[str]]:
    served: dict[str, Served] = {}
    problems = []
    for name, given in config.cascades.items():
        try:
            served[name] = Served(name, given, build(name), gates[name])
            if config.allow_tiers:
                served |= _single_tiers(name, given, served[name].cascade, store, observers)
        except CascadeError as error:
            problems.append(f"cascades.{name}: {error}")
    return served, problems


def _single_tiers(
    name: str,
    config: CascadeConfig,
    cascade: Cascade,
    store: Store | None,
    observers: Sequence[Observer],
) -> dict[str, Served]:
    """Each tier as a model of its own: a cascade of it alone, with a gate of its own."""
    found = {}
    for tier in cascade.tiers:
        model = f"{name}/{tier.name}"
        alone = Cascade(
            tiers=[replace(tier.settings, name=tier.name)],
            ledger=store,
            observers=observers,
            deadline=config.deadline,
            resilience=cascade.doors,
            tags={CASCADE_TAG: model, **config.tags},
            name=model,
        )
        found[model] = Served(model, config, alone, _gate(model, config))
    return found


def to_order(config: CascadeConfig) -> tuple[Step, ...] | None:
    """The fallback of a cascade.

    Raises:
        ConfigurationError: a model in it has no key in the environment, or no price.
    """
    if config.fallback is None:
        return None
    return tuple(
        open_config(step, (step,), 0)
        if isinstance(step, TierConfig)
        else Queue(**dict(step))
        if isinstance(step, QueueConfig)
        else step
        for step in config.fallback
    )


def to_shedding(config: bool | SheddingConfig, load: Load | None) -> Shedding | None:
    """What a cascade leaves out under the pressure of its gate and its own."""
    if config is False:
        return None
    given = SheddingConfig() if config is True else config
    settings = {name: value for name, value in given if name != "gate"}
    return Shedding(**settings, load=load if given.gate else None)


def _shared(config: ServiceConfig, store: Store | None, keys: Keys) -> Shared | None:
    if store is None or config.ledger is None or not is_shared(config.ledger.url):
        return None
    return Shared(config.ledger.url, store, keys, config)


def _gate(name: str, config: CascadeConfig) -> Gate:
    return Gate(name, config.concurrency, config.queue, config.queue_timeout_s)


def _keys(config: ServiceConfig) -> Keys:
    url = None if config.ledger is None else config.ledger.url
    if url is None or url.startswith("memory:"):
        if config.auth:
            raise ConfigurationError(
                "keys are kept in the ledger's database: set ledger, such as "
                "sqlite:///ledger.db; or start with --no-auth on this machine's loopback."
            )
        return Keys()
    return Keys(url)


def open_ledger(config: LedgerConfig) -> Store:
    """The ledger of a configuration; nothing is connected yet.

    Raises:
        ConfigurationError: the address is none, or the environment lacks the key of its hashes.
    """
    secret = _from_environment(config.hash_key_env, "ledger.hash_key_env")
    try:
        return open_store(
            config.url,
            crash_safe=config.crash_safe,
            durable=config.durable,
            texts=config.texts,
            hash_key=secret,
            redact=mask_secrets if config.mask_secrets else None,
        )
    except ConfigurationError as error:  # it shows the address, with its password
        raise type(error)(f"ledger.url: {masked(str(error))}") from None


def _from_environment(name: str | None, what: str) -> str | None:
    if name is None:
        return None
    value = os.environ.get(name)
    if not value:
        raise ConfigurationError(f"{what}: the environment variable {name} is not set.")
    return value
