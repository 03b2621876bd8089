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

from cascade.confidence.metrics import Array
from cascade.evaluation.audit.intervals import BETS, Sample, betting

Standing = Literal["candidate", "live", "dropped"]
"""Of a group: its lessons are not shown yet, are shown, or are not shown any more."""

REQUESTS_KEPT = 500
"""Evidence is of the last so many requests of a group."""

LIMITS = (-1.0, 1.0)

TRIED_FIRST = 8
"""Known gains of a group after which it is asked whether there is any hope, and after as many more
each time that its trials become rarer."""

RARER = 4
"""By which the chance of a trial is divided each time."""

LEAST_TRIED = 1 / 16
"""The chance of a trial of a group without hope, at the least: it may come back."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One request of a group.

    Attributes:
        rate: the chance with which its right answer was to become known: 1 where it was escalated,
            that of its audit where its draft was accepted.
        gain: what the answer with examples was worth more than the one without, in [−1, 1]; None
            where the right answer did not become known, or no trial was made.
        trial: the chance that a trial is made once it is known, fixed before the request came.
    """

    rate: float
    gain: float | None = None
    trial: float = 1.0


@dataclass(slots=True)
class Evidence:
    """The pairs of one group of lessons, and what they say.

    Two bets are kept on the gains, each a mixture of fixed shares (Waudby-Smith and Ramdas, arXiv
    2010.09686) on Z = gain ÷ rate where the gain is known and 0 where it is not. A group

    - goes live once the bet against "the mean gain is not above 0" has won 1/`alpha` times its
      stake. Without any gain that ever happens with a probability of at most `alpha` (Ville's
      inequality), so that it may be looked at after each request. The largest share is set by the
      lowest rate there is, as what is won and lost is at most 1 ÷ rate. The chance of a trial is
      known before its request, so that stakes may be in proportion to it: it cancels;
    - is dropped when, while it is live, the bet against "the mean gain is not below 0", begun anew
      wherever that is best, has won 1/`doubt` times its stake (CUSUM of e-values: Shin, Ramdas and
      Rinaldo, arXiv 2203.03532): if examples make no difference, not before 1/`doubt` known gains
      on average. It comes back by new evidence alone.

    Attributes:
        alpha: probability of a wrong admission of a group.
        doubt: how rarely one is dropped that does no harm.
        worth: the mean gain above which there is hope for a group that is not shown: less would
            not pay for its trials.
        standing: of the group.
    """

    alpha: float = 0.05
    doubt: float = 0.2
    worth: float = 0.0
    standing: Standing = "candidate"
    _pairs: OrderedDict[str, Pair] = field(default_factory=OrderedDict)

    @property
    def pairs(self) -> dict[str, Pair]:
        """The requests whose gain is known, oldest first."""
        return {run_id: pair for run_id, pair in self._pairs.items() if pair.gain is not None}

    @property
    def least_rate(self) -> float:
        """The lowest chance with which the right answer to a request was to become known."""
        return min((pair.rate for pair in self._pairs.values()), default=1.0)

    def put(self, run_id: str, pair: Pair) -> Standing:
        """Take in a request, or what has become known of it; returns the standing after that."""
        self._pairs[run_id] = pair
        while len(self._pairs) > REQUESTS_KEPT:
            self._pairs.popitem(last=False)
        if not pair.gain:
            return self.standing  # where nothing was won or lost, neither bet changes
        if self.standing == "live":
            turned: Standing = "dropped" if self._lost() else "live"
        else:
            turned = "live" if self._won() else self.standing
        if turned != self.standing:
            self.standing = turned
            self._pairs.clear()  # what shows that it helps is not what shows that it still does
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
        return len(self.pairs)

    @property
    def gain(self) -> float:
        """The mean gain, each known one weighted by the inverse of its chance (Horvitz and
        Thompson, 1952); 0 where nothing is known."""
        known = self.pairs.values()
        total = sum((pair.gain or 0.0) / (pair.rate * pair.trial) for pair in known)
        return total / len(self._pairs) if self._pairs else 0.0

    @property
    def trial(self) -> float:
        """The chance of a trial of the next request: 1, and less for a group that is not shown and
        of which so many gains are known without any hope."""
        if self.standing == "live":
            return 1.0
        known = self.known
        if known < TRIED_FIRST or self._hopes():
            return 1.0
        return max(LEAST_TRIED, float(RARER) ** -(known // TRIED_FIRST))

    @property
    def bounds(self) -> tuple[float, float]:
        """Between which the mean gain lies, each with an error of `alpha`."""
        if not self._pairs:
            return LIMITS
        gains = np.array([pair.gain for pair in self._pairs.values() if pair.gain is not None])
        rates = np.array([pair.rate * pair.trial for pair in self._pairs.values()])
        known = np.array([pair.gain is not None for pair in self._pairs.values()])
        return betting(gains, Sample(rates, known), LIMITS, level=1.0 - 2.0 * self.alpha)

    def _won(self) -> bool:
        """Whether a mean gain of 0 or less is refuted."""
        z, top = self._weighted()
        wealth = np.log1p(np.outer(BETS / top, z)).sum(1)
        return bool(np.logaddexp.reduce(wealth) - np.log(len(BETS)) >= -np.log(self.alpha))

    def _hopes(self) -> bool:
        """Whether the gains that are known, each weighted by the inverse of its chance (Hájek,
        1971), are worth more trials on average."""
        known = self.pairs.values()
        gains = np.array([pair.gain or 0.0 for pair in known])
        weights = np.array([1.0 / (pair.rate * pair.trial) for pair in known])
        return float(np.average(gains, weights=weights)) > self.worth

    def _lost(self) -> bool:
        """Whether a mean gain of 0 or more is refuted, from some request on."""
        z, top = self._weighted()
        wealth = np.log1p(np.outer(-BETS / top, z)).cumsum(1)
        since_best = wealth[:, -1] - np.minimum(0.0, wealth[:, :-1].min(1, initial=0.0))
        return bool(np.logaddexp.reduce(since_best) - np.log(len(BETS)) >= -np.log(self.doubt))

    def _weighted(self) -> tuple[Array, float]:
        """The known gains over their rates, and one over the lowest rate of all."""
        pairs = self._pairs.values()
        z = np.array([pair.gain / pair.rate for pair in pairs if pair.gain is not None])
        return z, 1.0 / self.least_rate
