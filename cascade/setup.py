"""From the options of a cascade to its policy and its stack of middleware."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cascade._numbers import to_number
from cascade.errors import ConfigurationError
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
from cascade.tiers import OpenTier

if TYPE_CHECKING:
    from cascade.confidence.calibration import Calibration


def choose_policy(
    tiers: Sequence[OpenTier], calibration: Calibration | None, **given: Any
) -> Policy:
    """The one policy that the options `policy`, `threshold`, `price_of_error`, `max_harm` and
    `escalation_budget` mean; None for those that were not given.

    Raises:
        ConfigurationError: several were given, one of the wrong kind, or one that needs prices, a
            calibration or a certificate without them.
    """
    named = {name: value for name, value in given.items() if value is not None}
    if len(named) > 1:
        raise ConfigurationError(
            f"{' and '.join(named)} were given: each of them decides alone. Give one."
        )
    name, value = next(iter(named.items()), ("policy", ThresholdPolicy()))
    if name == "policy":
        if isinstance(value, type) or not isinstance(value, Policy):
            raise ConfigurationError(
                f"policy={value!r}: give an object with decide(situation), such as "
                "ThresholdPolicy(0.9)."
            )
        chosen: Policy = value
        return chosen
    number = to_number(name, value, **({"above": 0, "below": 1} if name == "max_harm" else {}))
    if name == "threshold":
        return ThresholdPolicy(number)
    if name == "price_of_error":
        for tier in tiers[1:]:
            if not has_price(tier.pricing):
                raise ConfigurationError(
                    f"price_of_error weighs an error against what {tier.name} ({tier.model.name}) "
                    f"costs, which is unknown ({tier.pricing.source}). Set "
                    "Tier(…, price=Price(input=…, output=…)), dollars per 1M tokens, or decide by "
                    "threshold or escalation_budget."
                )
        p_large = None if calibration is None else calibration.p_large
        return EconomicPolicy(number, 1.0 if p_large is None else p_large)
    harm = f" … --max-harm {value}" if name == "max_harm" else ""
    if calibration is None:
        raise ConfigurationError(
            f"{name}={value} needs calibrator=…: make one with `cascade calibrate{harm}`."
        )
    if not harm:
        return ThresholdPolicy.at_rate(calibration.confidences, number)
    fitting = [c for c in calibration.certificates if c.max_harm <= number]
    if not fitting:
        there = ", ".join(f"{c.max_harm:.1%}" for c in calibration.certificates) or "none"
        raise ConfigurationError(
            f"max_harm={value}: the calibration has certificates for {there}; make one with "
            f"`cascade calibrate{harm}`."
        )
    from cascade.policies import CertifiedPolicy  # noqa: PLC0415 - only where it is asked for

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
    usual: dict[Any, tuple[str, Any]] = {
        Retries: ("", None),
        Breaker: ("", None),
        Deadline: ("deadline", deadline),
        LocalOnly: ("local_only", local_only or None),
        ToolRisks: ("", None),
    }
    if audit_rate is not None:
        from cascade.middleware import Audits  # noqa: PLC0415 - only where it is asked for

        usual[Audits] = ("audit_rate", audit_rate)
    stack = list(given)
    for kind, (option, value) in usual.items():
        if not any(isinstance(one, kind) for one in given):
            stack.append(kind() if value is None else kind(value))
        elif value is not None:
            raise ConfigurationError(
                f"{option}={value!r} and middleware=[{kind.__name__}(…)] were both given: leave "
                "one of them out."
            )
    return tuple(stack)
