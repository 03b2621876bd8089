"""What the policies with a promise do on recorded rows: `price_of_error` and `max_harm`.

Both are replayed by the policies' own `decide`, row by row, as they would decide online.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cascade.confidence.fitting import fit_calibrator
from cascade.confidence.metrics import Array
from cascade.errors import ConfigurationError
from cascade.evaluation.metrics import bootstrap
from cascade.evaluation.replay import Mask, Rows, replay
from cascade.evaluation.report import Certified, Economic
from cascade.policies import CertifiedPolicy, EconomicPolicy, Policy
from cascade.policies.certify import Refusal, certify

if TYPE_CHECKING:
    from cascade.evaluation.evaluating import Study


def economic(study: Study) -> Economic | None:
    """The economic policy on the test part, if a price of an error was given.

    Raises:
        ConfigurationError: costs are unknown, or the drafts have no signal.
    """
    price, r, test = study.options.price_of_error, study.recorded, study.test
    if price is None:
        return None
    if r.unit == "calls":
        raise ConfigurationError(
            "price_of_error weighs dollars, and the recording knows no costs: record `cost_usd`."
        )
    _needs_signals(study, "price_of_error")
    p = study.probability[test]
    # Online nobody knows what the large answer is going to cost; its mean stands in.
    cost = np.full(len(test), float(r.large_cost[study.fit].mean()))
    p_large = np.clip(p + study.gain[test], 0.0, 1.0)
    policy = EconomicPolicy(price_of_error=price)
    accepted = _accepted(policy, Rows(p, escalation_cost=cost, p_large=p_large))
    spent = r.small_cost[test] + np.where(accepted, 0.0, r.large_cost[test])
    right = np.where(accepted, study.small, study.large)
    total = spent + price * (1.0 - right)
    alone = {
        "small alone": r.small_cost[test] + price * (1.0 - study.small),
        "large alone": r.large_cost[test] + price * (1.0 - study.large),
    }
    rival = min(alone, key=lambda name: float(alone[name].mean()))

    saved = alone[rival] - total

    def by_weight(rows: NDArray[np.intp], weight: Array) -> Mapping[str, Array]:
        count = weight.sum(axis=-1)
        return {"total": weight @ total[rows] / count, "advantage": weight @ saved[rows] / count}

    n = len(test)
    intervals = bootstrap(by_weight, n, seed=study.options.seed)
    return Economic.model_validate(
        {
            "price_of_error": price,
            "escalated": float(1.0 - accepted.mean()),
            "quality": float(right.mean()),
            "cost": float(spent.sum() / study.large_sum),
            "small_total": float(alone["small alone"].mean()),
            "large_total": float(alone["large alone"].mean()),
            "best": "cascade" if intervals["advantage"].value > 0 else rival,
            **intervals,
        }
    )


def certified(study: Study) -> Certified | None:
    """A certificate from the fit part and what it does on the test part, if harm was bounded.

    One half of the fit part fits the calibrator, the other proves the threshold.

    Raises:
        ConfigurationError: the drafts have no signal.
    """
    options, r, test = study.options, study.recorded, study.test
    if options.max_harm is None:
        return None
    _needs_signals(study, "max_harm")
    half = len(study.fit) // 2
    first, second = study.fit[:half], study.fit[half:]
    calibrator = fit_calibrator(study.features[first], r.small_correct[first])
    p = calibrator.predict(study.features)
    found = certify(
        p[second], r.small_correct[second], max_harm=options.max_harm, delta=options.delta
    )
    if isinstance(found, Refusal):
        return Certified(
            max_harm=options.max_harm,
            delta=options.delta,
            labels=len(second),
            threshold=None,
            reason=found.reason,
        )
    accepted = _accepted(CertifiedPolicy(found), Rows(p[test]))
    harmed = np.where(accepted, 1.0 - study.small, 0.0)
    spent = r.small_cost[test] + np.where(accepted, 0.0, r.large_cost[test])

    def by_weight(rows: NDArray[np.intp], weight: Array) -> Mapping[str, Array]:
        return {"harm": weight @ harmed[rows] / weight.sum(axis=-1)}

    n = len(test)
    return Certified(
        max_harm=options.max_harm,
        delta=options.delta,
        labels=len(second),
        threshold=found.threshold,
        reason=f"{found.errors} of {found.n} labelled drafts were accepted and wrong",
        bound=found.bound,
        harm=bootstrap(by_weight, n, seed=options.seed)["harm"],
        accepted=float(accepted.mean()),
        quality=float(np.where(accepted, study.small, study.large).mean()),
        cost=float(spent.sum() / study.large_sum),
    )


def _accepted(policy: Policy, rows: Rows) -> Mask:
    return np.array([decision.action == "accept" for decision in replay(policy, rows)])


def _needs_signals(study: Study, option: str) -> None:
    if not study.has_signals:
        raise ConfigurationError(
            f"{option} needs a confidence, and the recorded drafts of {study.recorded.small} have "
            "no signal: record `features`, `confidence` or `signals`."
        )
