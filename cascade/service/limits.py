"""Limits of requests: per minute, and in dollars."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from decimal import Decimal
from ipaddress import IPv6Address, ip_network

from starlette.requests import Request

from cascade.api import Cascade
from cascade.ledger.shared import Budgets, Refusal, Reservation
from cascade.service.faults import ServiceError
from cascade.service.keys import Key
from cascade.state import Usage

logger = logging.getLogger("cascade")

CHARACTERS_PER_TOKEN, TEMPLATE_TOKENS, FILE_CHARACTERS = 3, 64, 4_500
"""Fewer characters than in usual text, what providers put around a prompt, and what an image or a
file counts, so that more is put aside than is spent."""

ANSWER_TOKENS = 1024
"""Tokens of an answer for which money is put aside where nothing limits it."""

PATIENCE_S, POLL_S = 10.0, 0.1
"""Longest wait for money that requests under way have put aside, and seconds between two looks."""

MOST_NAMES = 10_000


class Rates:
    """Requests per minute by name, as buckets that fill evenly; each process counts for itself."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(
        self, name: str, per_minute: float, at_once: float | None = None, count: int = 1
    ) -> int:
        """Count a request, or ask (`count=0`); the seconds to wait where there were too many."""
        now, most = self._clock(), max(1.0, at_once or per_minute)
        left, at = self._left.pop(name, (most, now))
        left = min(most, left + (now - at) * per_minute / 60)
        wait_s = math.ceil(max(0.0, 1 - left) * 60 / per_minute)
        self._left[name] = (left if wait_s else left - count, now)
        if len(self._left) > MOST_NAMES:
            self._left.popitem(last=False)
        return wait_s


def address_of(request: Request) -> str:
    """The address that counts for a client: of IPv6 its network, since one line has 2⁶⁴ of them."""
    host = request.client.host if request.client else ""
    try:
        address = IPv6Address(host)
    except ValueError:
        return host
    return str(address.ipv4_mapped or ip_network((int(address), 64), strict=False))


# --- dollars


async def put_aside(budgets: Budgets, key: Key, usd: Decimal) -> Reservation:
    """Put dollars of a key aside; waits for those that requests under way have put aside.

    Raises:
        ServiceError: the budget does not cover it: 402 where it is spent, 429 where it is only put
            aside.
    """
    until = time.monotonic() + PATIENCE_S
    while isinstance(answer := await budgets.reserve(key.id, usd, key.limits), Refusal):
        if answer.why == "spent" or time.monotonic() >= until:
            raise _refused(answer)
        await asyncio.sleep(POLL_S)
    return answer


def _refused(refusal: Refusal) -> ServiceError:
    account, window = refusal.account, refusal.window
    said = (
        f"of ${refusal.limit_usd:f} for the {window}, ${short(account.spent_usd(window))} is spent "
        f"and ${short(account.put_aside_usd)} put aside for requests under way; this one may cost "
        f"${short(refusal.usd)}"
    )
    if refusal.why == "put_aside":
        told = f"the budget of this key is put aside: {said}. Try again in a moment."
        return ServiceError(429, told, "budget_put_aside", retry_after=1)
    told = f"the budget of this key does not cover the request: {said}. The next {window} begins at"
    return ServiceError(402, f"{told} {refusal.renews_at:%Y-%m-%d} 00:00 UTC.", "budget_exhausted")


def counted(done: asyncio.Future[None]) -> None:
    """Log that a cost could not be counted."""
    if not done.cancelled() and (error := done.exception()) is not None:
        logger.error("a budget could not be counted: %s", error)


def short(usd: Decimal) -> str:
    """An amount for people: to the millionth, and four digits beyond the leading zeros."""
    return f"{round(usd, max(6, 3 - usd.adjusted())):f}".rstrip("0").rstrip(".") if usd else "0"


def estimate(cascade: Cascade, size: int, max_tokens: int | None, unknown_usd: Decimal) -> Decimal:
    """Dollars that one run may cost: every tier is asked, and every signal taken.

    Args:
        cascade: that runs.
        size: characters of the prompt, with tools and schema.
        max_tokens: limit of the answer, where the request has one.
        unknown_usd: counted for a call whose cost is unknown.
    """
    tokens, total = size // CHARACTERS_PER_TOKEN + TEMPLATE_TOKENS, Decimal(0)
    drafts = len(cascade.tiers) - 1
    calls = 1 + sum(signal.calls for signal in cascade.kernel.parts.signals)
    for number, tier in enumerate(cascade.tiers):
        most = max_tokens or tier.max_tokens or ANSWER_TOKENS
        cost = tier.pricing.cost(Usage(input_tokens=tokens, output_tokens=most))
        total += (unknown_usd if cost is None else cost) * (calls if number < drafts else 1)
    return total
