"""A shadow start in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cascade.evaluation.audit.estimates import Estimate
    from cascade.evaluation.audit.forecast import Forecast
    from cascade.oversight.readiness import Readiness

WIDTH = 22


def readiness_text(report: Readiness) -> str:
    """The verdict first, then what it rests on, then what to do."""
    lines = [f"{report.verdict}: {report.reason}", ""]
    lines += [f"  {name:<{WIDTH}}{value}" for name, value in _rows(report)]
    return "\n".join([*lines, "", *_next(report)])


def _rows(report: Readiness) -> list[tuple[str, str]]:
    rows = [("shadow requests", _counts(report)), ("spent on them", f"${report.spent_usd:f}")]
    if report.agreement is not None:
        rows.append(("drafts as good", f"{report.agreement:.1%} of those that were compared"))
    allowed = f"loss up to {report.max_loss:.1%}, saving over {report.min_saving:.1%}"
    rows.append(("wanted", allowed))
    if report.present is not None:
        rows += _forecast("as it is set up", report.present)
    if report.proposed is not None:
        rows += _forecast("calibrated", report.proposed)
    if report.certificate is not None:
        proved = report.certificate
        rows.append(
            (
                "certificate",
                f"P(accepted and worse) ≤ {proved.max_harm:.1%} with {1 - proved.delta:.0%} "
                f"confidence, at confidence ≥ {proved.threshold:.3f}; accepts "
                f"{proved.coverage:.0%}",
            )
        )
    if report.refusal is not None:
        rows.append(("no certificate", report.refusal.reason))
    return rows


def _counts(report: Readiness) -> str:
    parts = [f"{report.compared} drafts compared"]
    for count, what in (
        (report.not_compared, "not comparable and left out"),
        (report.failed, "without a draft, which failed"),
        (report.routed, "that a router sends to the large model"),
        (report.not_drafted, "not drafted, too many were waiting"),
        (report.unpriced, "with an unknown cost, in no forecast"),
    ):
        if count:
            parts.append(f"{count} {what}")
    return f"{report.requests}: {', '.join(parts)}"


def _forecast(name: str, found: Forecast) -> list[tuple[str, str]]:
    at = "" if found.threshold is None else f", at confidence ≥ {found.threshold:.3f}"
    rows = "row" if found.saving.audits == 1 else "rows"
    return [
        (name, f"{found.verdict} ({found.saving.audits} {rows}{at})"),
        ("  accepts", f"{1 - found.escalation_rate:.1%}"),
        ("  saving", f"{_range(found.saving)} of the large-only bill"),
        ("  quality loss", f"{_range(found.loss)} per request"),
    ]


def _range(figure: Estimate) -> str:
    value, low, high = (_share(share) for share in (figure.value, figure.low, figure.high))
    return f"{value} ({low} to {high})"


def _share(share: float) -> str:
    return f"{round(share, 3) + 0.0:.1%}"  # nothing is never −0.0 %


def _next(report: Readiness) -> list[str]:
    if report.verdict == "too early":
        if report.more is None:
            return ["More requests alone will not decide it."]
        return [f"About {report.more:,} more shadow requests will probably decide it."]
    if report.verdict == "not worth it":
        return ["Stay with the large model, try another small one, or allow a greater loss."]
    if report.present is not None and report.present.verdict == "ready":
        return ["Go live: cascade.mode = 'live', or 'canary' for a share of the requests first."]
    threshold = report.proposed.threshold if report.proposed else None
    return [
        "Go live with the calibration made here (report.calibration.save('calibration.json'), or "
        "--out):",
        f"Cascade(…, calibrator='calibration.json', policy=ThresholdPolicy({threshold}))",
    ]
