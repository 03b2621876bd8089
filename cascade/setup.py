"""From the options of a cascade to the parts of its kernel: signals, calibration, policy, stack."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade._numbers import to_number
from cascade.confidence import ModelIdentity, Signal, digest
from cascade.errors import CalibrationMismatchError, ConfigurationError, MissingDependencyError
from cascade.ledger.prices import has_price
from cascade.middleware import (
    Breaker,
    CascadeMiddleware,
    Deadline,
    LocalOnly,
    Retries,
    ToolRisks,
)
from cascade.policies import EconomicPolicy, Policy, ThresholdPolicy
from cascade.run import Settings, to_request
from cascade.tiers import OpenTier

if TYPE_CHECKING:
    from cascade.confidence.calibration import Calibration
    from cascade.confidence.signals import SignalLike
    from cascade.policies import CertifiedPolicy


def load_calibration(calibrator: str | Path | Calibration | None) -> Calibration | None:
    """A calibration, read from its file where a path is given.

    Raises:
        MissingDependencyError: numpy is not installed.
        ConfigurationError: the file cannot be read, or it is no calibration.
    """
    if calibrator is None:
        return None
    if find_spec("numpy") is None:
        raise MissingDependencyError("a calibration needs numpy: install the extra `calibrate`.")
    from cascade.confidence.calibration import Calibration  # noqa: PLC0415 - needs numpy

    if isinstance(calibrator, str | Path):
        return Calibration.load(calibrator)
    if not isinstance(calibrator, Calibration):
        raise ConfigurationError(
            f"calibrator={calibrator!r}: give a calibration or its file, made by "
            "`cascade calibrate` or cascade.calibrate(examples)."
        )
    return calibrator


def choose_signals(
    wanted: Sequence[SignalLike], calibration: Calibration | None
) -> tuple[Signal, ...]:
    """The signals to take: the user's, or those of the calibration.

    Raises:
        CalibrationMismatchError: the calibration knows other signals, or other words of a check.
    """
    if calibration is None and wanted == ():
        return ()
    from cascade.confidence.signals import to_signals, wordings  # noqa: PLC0415 - seldom

    if calibration is None:
        return to_signals(wanted)
    names = calibration.signals
    try:
        signals = to_signals(wanted or names)
    except ConfigurationError as error:
        raise CalibrationMismatchError(
            f"the calibration was made with the signals {list(names)}: give yours as signals=[…] "
            f"too ({error})"
        ) from error
    given = [signal.name for signal in signals]
    if sorted(given) != sorted(names):
        raise CalibrationMismatchError(
            f"the calibration was made with the signals {sorted(names)}, not {sorted(given)}: "
            "calibrate again."
        )
    for name, wording in wordings(names).items():
        if calibration.wordings.get(name) != wording:
            raise CalibrationMismatchError(
                f"the calibration was made with another wording of the check {name!r}: "
                "calibrate again (`cascade calibrate`)."
            )
    return tuple(sorted(signals, key=lambda signal: names.index(signal.name)))


def choose_policy(
    tiers: Sequence[OpenTier], calibration: Calibration | None, **given: Any
) -> Policy:
    """The one policy that the options `policy`, `threshold`, `price_of_error`, `max_harm` and
    `escalation_budget` mean; None for those that were not given.

    Raises:
        ConfigurationError: several were given, one of the wrong kind, or one that needs prices or a
            calibration without them.
    """
    named = [(name, value) for name, value in given.items() if value is not None]
    if len(named) > 1:
        names = " and ".join(name for name, _ in named)
        raise ConfigurationError(f"{names} were given: each of them decides alone. Give one.")
    if not named:
        return ThresholdPolicy()
    ((name, value),) = named
    if name == "policy":
        if isinstance(value, type) or not isinstance(value, Policy):
            raise ConfigurationError(
                f"policy={value!r}: give an object with decide(situation), such as "
                "ThresholdPolicy(0.9)."
            )
        chosen: Policy = value
        return chosen
    number = to_number(name, value)
    if name == "threshold":
        return ThresholdPolicy(number)
    if name == "price_of_error":
        return _economic(number, tiers, calibration)
    if name == "max_harm":
        return _certified(number, calibration)
    if calibration is None:
        raise ConfigurationError("escalation_budget needs calibrator=…, made by `calibrate`.")
    return ThresholdPolicy.at_rate(calibration.confidences, number)


def _economic(
    price_of_error: float, tiers: Sequence[OpenTier], calibration: Calibration | None
) -> EconomicPolicy:
    for tier in tiers[1:]:
        if not has_price(tier.pricing):
            raise ConfigurationError(
                f"price_of_error weighs an error against what {tier.name} ({tier.model.name}) "
                f"costs, which is unknown ({tier.pricing.source}). Set "
                "Tier(…, price=Price(input=…, output=…)), dollars per 1M tokens, or decide by "
                "threshold or escalation_budget."
            )
    p_large = None if calibration is None else calibration.p_large
    return EconomicPolicy(price_of_error, 1.0 if p_large is None else p_large)


def _certified(max_harm: float, calibration: Calibration | None) -> CertifiedPolicy:
    from cascade.policies import CertifiedPolicy  # noqa: PLC0415 - only where it is asked for

    to_number("max_harm", max_harm, above=0, below=1)
    how = f"make one with `cascade calibrate … --max-harm {max_harm}`."
    if calibration is None:
        raise ConfigurationError(f"max_harm={max_harm} needs calibrator=…: {how}")
    fitting = [c for c in calibration.certificates if c.max_harm <= max_harm]
    if not fitting:
        there = ", ".join(f"{c.max_harm:.1%}" for c in calibration.certificates) or "none"
        raise ConfigurationError(
            f"max_harm={max_harm}: the calibration has certificates for {there}; {how}"
        )
    return CertifiedPolicy(max(fitting, key=lambda certificate: certificate.coverage))


def choose_middleware(
    given: Sequence[CascadeMiddleware],
    *,
    deadline: float | None = None,
    local_only: bool | str = False,
    audit_rate: float | None = None,
) -> tuple[CascadeMiddleware, ...]:
    """The user's middleware, that of the contract's options, and the usual: retries, a circuit
    breaker, a deadline and a border that questions may name, and the risks that tools are marked
    with.

    Raises:
        ConfigurationError: an option and a middleware say the same thing twice.
    """
    if isinstance(given, CascadeMiddleware | str | bytes) or not isinstance(given, Sequence):
        raise ConfigurationError(f"middleware={given!r}: give a list, such as [Retries()].")
    usual: list[tuple[Any, str, Any]] = [
        (Retries, "", None),
        (Breaker, "", None),
        (Deadline, "deadline", deadline),
        (LocalOnly, "local_only", local_only or None),
        (ToolRisks, "", None),
    ]
    if audit_rate is not None:
        from cascade.middleware import Audits  # noqa: PLC0415 - only where it is asked for

        usual.append((Audits, "audit_rate", audit_rate))
    stack = list(given)
    for kind, option, value in usual:
        if not any(isinstance(one, kind) for one in given):
            stack.append(kind() if value is None else kind(value))
        elif value is not None:
            raise ConfigurationError(
                f"{option}={value!r} and middleware=[{kind.__name__}(…)] were both given: leave "
                "one of them out."
            )
    return tuple(stack)


def task_hash(settings: Settings, small: OpenTier) -> str:
    """A hash of what decides how the small model answers, but for the question."""
    request = to_request(small, (), settings)
    asked = {
        "tools": [dict(tool) for tool in request.tools],
        "schema": settings.get("schema"),
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "options": dict(small.settings.options),
    }
    rarely = {
        "tool_choice": settings.get("tool_choice"),
        "stop": list(request.stop),
        "extra": dict(request.extra),
    }
    return digest(asked | {name: value for name, value in rarely.items() if value})


def check_calibration(
    calibration: Calibration,
    tiers: Sequence[OpenTier],
    settings: Settings,
    *digests: str | None,
) -> None:
    """Refuse a calibration that was made for something else; `digests` are those of the models that
    are served now, the first and the last.

    Raises:
        CalibrationMismatchError: with what differs.
    """
    digests = digests or (None, None)
    small, large = (
        ModelIdentity(name=tier.model.name, digest=now)
        for tier, now in zip((tiers[0], tiers[-1]), digests, strict=True)
    )
    calibration.check(small, large, task_hash(settings, tiers[0]))
