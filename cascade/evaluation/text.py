"""An evaluation in words and tables for a terminal."""

from __future__ import annotations

import math

from cascade._words import table
from cascade.evaluation.metrics import Interval
from cascade.evaluation.report import (
    Certified,
    Confidence,
    Economic,
    Evaluation,
    Ranking,
    Reviews,
)
from cascade.evaluation.verdict import SHAPES

WHAT = {
    "raw score": "raw score of the draft",
    "confidence": "calibrated confidence",
    "gain": "expected gain, draft and prompt",
    "router": "prompt-only router",
}


def render(found: Evaluation) -> str:
    """The whole report."""
    parts = [
        found.headline,
        "\n".join(f"- {remark}" for remark in found.remarks),
        _models(found),
        _shapes(found),
        _rankings(found),
    ]
    if found.confidence is not None:
        by_confidence = next(r for r in found.rankings if r.name == "confidence")
        parts.append(_confidence(found.confidence, by_confidence))
    if found.economic is not None:
        parts.append(economic_words(found.economic))
    if found.certified is not None:
        parts.append(certified_words(found.certified))
    if found.reviews is not None:
        parts.append(reviews_words(found.reviews))
    parts.append(
        f"Fitted on {found.fit_rows:,} rows, all figures from the other {found.test_rows:,}; "
        "95 % intervals by bootstrap."
    )
    return "\n\n".join(parts)


def _models(found: Evaluation) -> str:
    rows = [
        ("small alone", percent(found.accuracy_small), f"{found.cost_ratio:.1%}"),
        ("large alone", percent(found.accuracy_large), "100.0%"),
        ("oracle", f"{found.oracle.quality:.1%}", f"{found.oracle.cost:.1%}"),
    ]
    return table(("", "right answers", "cost"), rows)


def _shapes(found: Evaluation) -> str:
    rows = [
        (
            f"{'→ ' if i == found.best else '  '}{shape.shape}",
            "off" if shape.off else percent(shape.cost),
            points(shape.change),
            percent(shape.escalated),
            number(shape.delta_ibc),
        )
        for i, shape in enumerate(found.shapes)
    ]
    heads = (
        f"within {100 * found.options.epsilon:g} pt of large",
        "cost",
        "quality, points",
        "large answers",
        "ΔIBC",
    )
    used = [shape for shape in found.shapes if shape.helpers]
    notes = [f"{shape.shape} also asks {', '.join(shape.helpers)}" for shape in used]
    meaning = [f"{shape.shape}: {SHAPES[shape.shape]}" for shape in found.shapes[:3]]
    return "\n".join([table(heads, rows), *meaning, *notes])


def _rankings(found: Evaluation) -> str:
    areas = [
        (WHAT[r.name], number(r.nauc), number(r.audc), number(r.apgr), number(r.aiq))
        for r in found.rankings
    ]
    calls = [
        (WHAT[r.name], percent(r.cpt50), percent(r.cpt80), number(r.auroc_gain))
        for r in found.rankings
    ]
    first = table(("who is escalated first", "nAUC", "AUDC", "APGR", "AIQ"), areas)
    second = table(("", "CPT 50", "CPT 80", "AUROC of gain"), calls)
    return f"{first}\n\n{second}\nnAUC: 0 is a random mix, 1 the oracle"


def _confidence(c: Confidence, ranked: Ranking) -> str:
    rows = [
        ("calibrated", number(c.ece), number(c.brier), number(c.auroc)),
        ("raw score", number(c.ece_raw), number(c.brier_raw), number(c.auroc_raw)),
    ]
    said = table((f"confidence, {c.labels:,} labels", "ECE", "Brier", "AUROC"), rows)
    areas = "".join(
        f", {name} {number(figure)}"
        for name, figure in (("AURC", ranked.aurc), ("excess AURC", ranked.excess_aurc))
        if figure is not None
    )
    return (
        f"{said}\nchosen: {c.calibrator}{areas}; an ECE of {c.ece_floor:.3f} is noise on so many "
        "rows"
    )


def economic_words(found: Economic) -> str:
    """What `price_of_error` came to."""
    sure = found.advantage.low > 0 or found.advantage.high <= 0
    verdict = {
        "cascade": "The cascade is the cheapest.",
        "small alone": "The small model alone is as good or better: switch the cascade off.",
        "large alone": "The large model alone is as good or better: switch the cascade off.",
    }[found.best]
    if not sure:
        verdict = "The difference to the better model alone is within chance."
    return (
        f"At ${found.price_of_error:g} per error, money and errors together come to "
        f"${found.total.value:.6f} a request (${found.total.low:.6f} to ${found.total.high:.6f}); "
        f"small alone ${found.small_total:.6f}, large alone ${found.large_total:.6f}. {verdict} "
        f"{found.escalated:.1%} escalate, {found.quality:.1%} of the answers are right."
    )


def certified_words(found: Certified) -> str:
    """What `max_harm` came to."""
    if found.threshold is None or found.harm is None:
        return f"No certificate: {found.reason}."
    return (
        f"Certified: accepting at {found.threshold:.3f} and above keeps harm, P(accepted and "
        f"wrong), at {found.max_harm:.1%} or below with {1 - found.delta:.0%} confidence (bound "
        f"{found.bound:.1%} from {found.labels:,} labels: {found.reason}). On the test part it "
        f"was {percent(found.harm)}; {found.accepted:.1%} accepted, cost {found.cost:.1%} of the "
        "large model alone."
    )


def reviews_words(found: Reviews) -> str:
    """What showing drafts to the large model is worth."""
    rows = [
        ("writing anew", percent(found.anew), "100.0%"),
        ("with the draft", percent(found.with_draft), percent(found.cost)),
        ("difference, points", points(found.quality), ""),
    ]
    which = f"{found.n:,} {'escalated questions' if found.escalated else 'questions'}"
    right = "" if found.approved_right is None else f", {found.approved_right:.1%} of them right"
    verdict = found.evidence.verdict
    return "\n".join(
        [
            f"{verdict[0].upper()}{verdict[1:]}.",
            table((which, "right answers", "cost of the large model"), rows),
            f"drafts approved: {percent(found.approved)}{right}",
        ]
    )


def percent(figure: Interval) -> str:
    """With its interval."""
    if math.isnan(figure.value):
        return "–"
    return f"{figure.value:.1%} ({100 * figure.low:.1f}–{100 * figure.high:.1f})"


def points(figure: Interval) -> str:
    """Percentage points with their interval."""
    return f"{100 * figure.value:+.1f} ({100 * figure.low:+.1f} to {100 * figure.high:+.1f})"


def number(figure: Interval) -> str:
    """Three digits with their interval."""
    if math.isnan(figure.value):
        return "–"
    return f"{figure.value:.3f} ({figure.low:.3f}–{figure.high:.3f})"
