"""What the watch for drift costs each request, and how often it gives a false alarm.

    python benchmarks/drift_cost.py

The cost is the time for which a decision holds up the event loop: five signals, the confidence, the
escalation rate, and the e-process of audits at a rate of 5 %. Windows are judged after the reply,
and are counted apart.
"""

from __future__ import annotations

import time

import numpy as np

from cascade._background import Background
from cascade.agents.watching import Case
from cascade.ledger import MemoryLedger, Recorder
from cascade.oversight import Drift, DriftWatch
from cascade.oversight.charts import Charts
from cascade.oversight.drift_events import DriftEvents
from cascade.policies import Guard
from cascade.state import Assessment, Completion, Decision, Draft, Run

DECISIONS = 20_000
RUNS, LENGTH = 200, 5_000
SIGNALS: tuple[str, ...] = ("mean_logprob", "min_logprob", "margin", "entropy", "length")
RATE = 0.05


def cases(n: int, rng: np.random.Generator) -> list[Case]:
    """Decisions of usual times."""
    draft = Draft("small", Completion("answer", "small"))
    made = []
    for i in range(n):
        signals = dict(zip(SIGNALS, rng.normal(size=len(SIGNALS)).tolist(), strict=True))
        action = "accept" if rng.random() < 0.7 else "escalate"
        made.append(
            Case(
                Run(str(i), ""),
                (),
                draft,
                Assessment(signals, float(rng.random()), calibrated=True),
                Decision(action=action, reason=""),
                audit_rate=RATE if action == "accept" else None,
            )
        )
    return made


def cost(rng: np.random.Generator) -> None:
    """Microseconds per decision on the event loop, and in all."""
    background = Background()
    events = DriftEvents("bench", "small", Recorder(MemoryLedger()), background)
    watch = DriftWatch(Drift(), Guard(), events, background, tier="small", max_harm=0.05)
    decided, spent = cases(DECISIONS, rng), []
    for case in decided:
        begun = time.thread_time()
        watch.judged(case)
        if case.audit_rate is not None:
            watch.audited(case.run.id, 0.0 if rng.random() < RATE else None)
        spent.append(1e6 * (time.thread_time() - begun))
    background.wait()
    mean, p99 = np.mean(spent), np.quantile(spent, 0.99)
    print(f"each decision: {mean:.0f} µs of CPU on average, 99 % below {p99:.0f} µs")
    begun, charts, n = time.thread_time(), Charts(Drift()), 0
    for case in decided:
        found = case.assessment
        for judge in charts.values(found.signals, found.confidence, calibrated=True):
            judge()
            n += 1
    each = 1e6 * (time.thread_time() - begun)
    print(f"{n} windows judged after replies: {each / DECISIONS:.0f} µs per decision, all included")


def false_alarms(rng: np.random.Generator) -> None:
    """Alarms while nothing changes."""
    signals = rates = windows = 0
    for _ in range(RUNS):
        charts = Charts(Drift())
        for _ in range(LENGTH):
            row = dict(zip(SIGNALS, rng.normal(size=len(SIGNALS)).tolist(), strict=True))
            for judge in charts.values(row, float(rng.random()), calibrated=True):
                windows += 1
                signals += judge() is not None
            rates += charts.decided("accept" if rng.random() < 0.7 else "escalate") is not None
    print(
        f"while nothing changes: {signals} of {windows:,} windows of a signal, and {rates} of "
        f"{RUNS} escalation charts over {LENGTH:,} requests, gave an alarm"
    )


if __name__ == "__main__":
    chance = np.random.default_rng(0)
    cost(chance)
    false_alarms(chance)
