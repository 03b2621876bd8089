"""What a chaos run asks: which cascades, in which way, and when the caller goes away."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from langgraph.types import RetryPolicy

from cascade import Cascade, Price, Tier
from cascade.graph import is_retryable
from cascade.ledger import LedgerStore
from tests.servers.saying import Protocol

BATCH = 5
"""Questions of a batch."""

WAYS: Mapping[str, int] = {
    "ainvoke": 6,
    "graph": 3,
    "verified": 4,
    "optimistic": 4,
    "left": 2,
    "cancelled": 2,
    "cancelled stream": 2,
    "timed": 2,
    "thread": 4,
    "thread stream": 2,
    "thread left": 1,
    "batch": 1,
    "strict batch": 1,
}
"""Ways of asking, and how often each comes among the others."""

LEAVES = frozenset({"left", "cancelled", "cancelled stream", "timed", "thread left"})
"""Ways in which the caller goes away at a random moment."""

LAST = "large"
"""The last tier of each cascade."""

SMALL, MIDDLE, LARGE = (
    Price(input="0.1", output="0.4"),
    Price(input="0.5", output="2"),
    Price(input="1.25", output="10"),
)
RETRIES = RetryPolicy(
    initial_interval=0.02, max_interval=0.2, max_attempts=3, jitter=False, retry_on=is_retryable
)
"""As many attempts as by default, without its waits: they would be most of the run."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One call of the cascade's interface.

    Attributes:
        number: of its requests, which is in their questions.
        way: how to ask.
        setup: which cascade.
        n: how many questions.
        leaves_s: seconds after which the caller goes away, where the way says that it does.
        leaves_after: events of a stream after which its reader leaves.
    """

    number: int
    way: str
    setup: str
    n: int
    leaves_s: float
    leaves_after: int

    @property
    def questions(self) -> list[str]:
        """What is asked."""
        return [f"What is in row {i} of the table of request-{self.number}?" for i in range(self.n)]


def plans(seed: int, requests: int, setups: list[str], deadline_s: float) -> Iterator[Plan]:
    """So many requests; each plan has chance of its own, whatever became of those before it."""
    number = begun = 0
    while begun < requests:
        chance = random.Random(f"{seed}/{number}")
        (way,) = chance.choices(list(WAYS), list(WAYS.values()))
        n = min(BATCH, requests - begun) if way.endswith("batch") else 1
        setup = chance.choice(setups)
        # Most moments early, where most calls are, some as late as the deadline.
        leaves_s = deadline_s * chance.random() ** 3
        yield Plan(number, way, setup, n, leaves_s, chance.randrange(5))
        number, begun = number + 1, begun + n


def cascades(
    urls: Mapping[Protocol, str], ledger: LedgerStore, deadline_s: float
) -> dict[str, Cascade]:
    """Set-ups that between them use what a run can do, in both protocols."""

    def tier(protocol: Protocol, name: str, price: Price, **how: Any) -> Tier:
        key = "none" if protocol == "openai" else None
        model = f"{protocol}:{name}"
        return Tier(model, name=name, base_url=urls[protocol], api_key=key, price=price, **how)

    common: dict[str, Any] = {
        "deadline": deadline_s,
        "ledger": ledger,
        "retry_policy": RETRIES,
    }
    small, large = tier("openai", "small", SMALL), tier("openai", "large", LARGE)
    local = tier("ollama", "small", SMALL)
    short = tier("openai", "small", SMALL, max_tokens=12)
    middle = tier("ollama", "middle", MIDDLE)
    return {
        "pair": Cascade(local, large, **common),
        "audited": Cascade(small, tier("ollama", "large", LARGE), audit_rate=0.1, **common),
        "checked": Cascade(local, large, signals=["p_true"], reuse="correct", **common),
        "hedged": Cascade(short, large, hedge=0.9 * deadline_s, abort=True, **common),
        "three": Cascade(tiers=[local, middle, large], **common),
    }
