"""Whom to audit with which chance, and who is drawn. No numpy: it runs with every request."""

from __future__ import annotations

import hashlib
from typing import TypeVar

T = TypeVar("T")


def weight(spread: T, cost: T) -> T:
    """What a chance of being audited is proportional to: spread ÷ √cost, numbers or arrays.

    Neyman's allocation for unequal costs: among all rates of the same expected spend, those
    proportional to it estimate a total with the least variance.
    """
    return spread / cost**0.5  # type: ignore[operator,no-any-return]


def constant_rate(
    expected_drafts: float, audit_usd: float, daily_usd: float, wanted: float
) -> float:
    """The wanted rate, or the lower one that a budget pays for."""
    most = daily_usd / (expected_drafts * audit_usd) if expected_drafts * audit_usd > 0 else 1.0
    return min(1.0, wanted, most)


def lot(run_id: str, seed: str = "", *, purpose: str = "audit") -> float:
    """A number in [0, 1) that is uniform over runs, and always the same for one run.

    A node that is executed again, also by another process, draws the same; the draws of different
    purposes are independent.
    """
    digest = hashlib.blake2b(f"{purpose}\0{seed}\0{run_id}".encode(), digest_size=7)
    return (int.from_bytes(digest.digest()) >> 3) / 2**53


def drawn(run_id: str, rate: float | None, seed: str = "") -> bool:
    """Whether the lot fell on a run: what an auditor with this seed decides, and decided."""
    return rate is not None and lot(run_id, seed) < rate
