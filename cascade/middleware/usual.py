"""Middleware of a cascade: the user's own, that of the contract's options, and the usual."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cascade.errors import ConfigurationError
from cascade.middleware.base import CascadeMiddleware
from cascade.middleware.deadline import Deadline
from cascade.middleware.local_only import LocalOnly
from cascade.middleware.resilience import Breaker, Retries
from cascade.middleware.tool_risks import ToolRisks


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
        from cascade.middleware.audits import Audits  # noqa: PLC0415 - only where it is asked for

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
