"""What shows whether examples from a group of lessons help the small model.

Each request whose right answer becomes known is a pair: the small model's answer with examples, and
its answer without them. One of the two is its draft; the other is tried afterwards. The right
answer is known of every escalated request, and of an accepted draft with the known chance of its
audit, so that the requests of a group are a population of which a sample is known.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from cascade.evaluation.audit.intervals import Sample, betting

Standing = Literal["candidate", "live", "dropped"]
"""Of a group: its lessons are not shown yet, are shown, or are not shown any more."""

REQUESTS_KEPT = 500
"""Evidence is of the last so many requests of a group."""

LIMITS = (-1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Pair:
    """One request of a group.

    Attributes:
        rate: the chance with which its right answer was to become known: 1 where it was escalated,
            that of its audit where its draft was accepted.
        gain: 1 where only the answer with examples was right, −1 where only the one without, 0
            where there was no difference; None where the right answer did not become known.
    """

    rate: float
    gain: float | None = None


@dataclass(slots=True)
class Evidence:
    """The pairs of one group of lessons, and what they say.

    The mean gain over all requests of the group has the bounds of `betting` (Waudby-Smith and
    Ramdas, arXiv 2010.09686): with fixed bets they hold at every moment at once (Ville), so that
    it may be looked at after each request. A group

    - goes live once the lower bound is above 0, which a group without any gain ever reaches with
      a probability of at most `alpha`;
    - is dropped when the mean gain that is estimated while it is live is below 0, or when the
      upper bound is; it comes back by new evidence alone.

    Attributes:
        alpha: probability of a wrong admission of a group.
        standing: of the group.
    """

    alpha: float = 0.05
    standing: Standing = "candidate"
    _pairs: OrderedDict[str, Pair] = field(default_factory=OrderedDict)

    def put(self, run_id: str, pair: Pair) -> Standing:
        """Take in a request, or what has become known of it; returns the standing after that."""
        self._pairs[run_id] = pair
        while len(self._pairs) > REQUESTS_KEPT:
            self._pairs.popitem(last=False)
        low, high = self.bounds
        if self.standing != "live" and low > 0:
            self.standing = "live"
            self._pairs.clear()  # what shows that it helps is not what shows that it still does
        elif self.standing == "live" and self.known >= 1 and (self.gain < 0 or high < 0):
            self.standing = "dropped"
            self._pairs.clear()
        return self.standing

    def pair(self, run_id: str) -> Pair | None:
        """What is known of a request; None where it does not count here."""
        return self._pairs.get(run_id)

    def forget(self, run_ids: Iterable[str]) -> None:
        """Leave these requests out from now on."""
        for run_id in run_ids:
            self._pairs.pop(run_id, None)

    @property
    def requests(self) -> int:
        """How many requests there were since the standing changed."""
        return len(self._pairs)

    @property
    def known(self) -> int:
        """Of how many of them the gain is known."""
        return sum(pair.gain is not None for pair in self._pairs.values())

    @property
    def gain(self) -> float:
        """The mean gain, each known one weighted by the inverse of its chance (Horvitz and
        Thompson, 1952); 0 where nothing is known."""
        total = sum(pair.gain / pair.rate for pair in self._pairs.values() if pair.gain is not None)
        return total / len(self._pairs) if self._pairs else 0.0

    @property
    def bounds(self) -> tuple[float, float]:
        """Between which the mean gain lies, each with an error of `alpha`."""
        if not self._pairs:
            return LIMITS
        gains = np.array([pair.gain for pair in self._pairs.values() if pair.gain is not None])
        rates = np.array([pair.rate for pair in self._pairs.values()])
        known = np.array([pair.gain is not None for pair in self._pairs.values()])
        return betting(gains, Sample(rates, known), LIMITS, level=1.0 - 2.0 * self.alpha)
