"""The page of a run: one HTML file that asks no other host for anything."""

from __future__ import annotations

from decimal import Decimal
from html import escape
from importlib.resources import files

from cascade._page import card, document, grid
from cascade._words import dollars, percent
from cascade.demo.chart import curve_svg
from cascade.demo.records import Findings
from cascade.demo.report import Line, Outcome, Report, Share
from cascade.demo.words import PER, interval, short_name
from cascade.ledger import NodeTotal


def to_page(findings: Findings) -> str:
    """The whole page."""
    facts = findings.facts
    sections = (
        _head,
        _cards,
        _bars,
        _curve,
        _kinds,
        _money,
        _origin,
        _answers,
    )
    return document(
        f"cascade demo: {short_name(facts.small)} and {facts.large}",
        "\n".join(section(findings) for section in sections),
        files("cascade.demo").joinpath("page.css").read_text(encoding="utf-8"),
    )


def _head(findings: Findings) -> str:
    facts = findings.facts
    how = (
        "running now"
        if facts.large_source == "live"
        else "whose <b>recorded</b> answers stand in for it"
    )
    return f"""<h1>Small model first, large model when in doubt</h1>
<p class="lead">{facts.n} questions with known answers. <b>{escape(short_name(facts.small))}</b>
drafted every answer, live on this machine. Where the draft's confidence was below
{facts.threshold:g}, the question went on to <b>{escape(short_name(facts.large))}</b>, {how}.</p>"""


def _cards(findings: Findings) -> str:
    report, overall = findings.report, findings.report.overall
    large = f"large alone {percent(overall.large.rate)}, " if overall.large else ""
    cards = [
        card(
            "right answers of the cascade",
            percent(overall.cascade.rate),
            f"{large}small alone {percent(overall.small.rate)}",
            css="card main",
        ),
        card(
            "asked the large model",
            percent(overall.escalated.rate),
            f"{overall.escalated.count} of {overall.n} questions; "
            f"{percent(overall.accepted_right.rate)} of the accepted drafts were right",
        ),
    ]
    if report.saved_share is not None:
        cards.append(_saved(report, report.saved_share))
    if report.auroc is not None:
        cards.append(
            card(
                "confidence tells right from wrong",
                f"{report.auroc:.2f}",
                "AUROC: 0.5 is a coin, 1 is perfect; not calibrated",
            )
        )
    return f'<div class="cards">{"".join(cards)}</div>'


def _saved(report: Report, share: float) -> str:
    n = report.overall.n
    return card(
        f"{'saved' if share >= 0 else 'lost'} against large alone",
        percent(abs(share)),
        f"{dollars(_per(report.cascade_cost, n))} instead of "
        f"{dollars(_per(report.large_cost, n))} per million questions, at the assumed prices",
    )


def _bars(findings: Findings) -> str:
    overall = findings.report.overall
    rows = [("small", overall.small), ("cascade", overall.cascade), ("large", overall.large)]
    bars = "".join(_bar(name, share) for name, share in rows if share is not None)
    missing = (
        '<p class="soft">How good the large model is alone is not known: it was asked only where '
        "it was needed. <code>--compare</code> asks it everything.</p>"
        if overall.large is None
        else ""
    )
    return f"""<h2>How often each is right</h2>
<div class="bars">{bars}</div>
<p class="soft">The line on each bar is the 95 % interval (Wilson): with {overall.n} questions,
differences inside it may be luck.</p>{missing}"""


def _bar(name: str, share: Share) -> str:
    low, high = share.interval
    return (
        f'<div class="bar" title="{interval(share)}"><span class="name">{name}</span>'
        f'<span class="track"><span class="fill {name}" style="width:{share.rate * 100:.1f}%">'
        f'</span><span class="range" style="left:{low * 100:.1f}%;width:{(high - low) * 100:.1f}%">'
        f'</span></span><span class="number">{percent(share.rate)}</span></div>'
    )


def _curve(findings: Findings) -> str:
    curve = findings.report.curve
    if curve is None:
        return ""
    unpriced = (
        ""
        if curve.unit == "dollars"
        else "A price is not known, so the axis counts answers of the large model instead. "
    )
    return f"""<h2>Cost against quality</h2>
<div class="plot"><div class="key"><span>the cascade at every threshold</span>
<span class="random">asking the large model at random</span></div>
{curve_svg(curve, findings.facts.threshold)}</div>
<p class="soft">{unpriced}Above the dashed line the confidence is worth something: as many questions
sent to the large model by the throw of a die would give fewer right answers. The oracle knows
beforehand where the large model helps; nothing can do better.</p>"""


def _kinds(findings: Findings) -> str:
    report = findings.report
    heads = ("kind", "n", "small", "cascade", "large", "escalated", "right among accepted")
    rows = [*map(_kind, report.kinds), _kind(report.overall, digits=1)]
    return f"""<h2>By kind of question</h2>
{grid(heads, rows, strong=-1)}"""


def _kind(line: Line, digits: int = 0) -> list[str]:
    accepted = line.accepted_right
    return [
        line.kind,
        str(line.n),
        percent(line.small.rate, digits),
        percent(line.cascade.rate, digits),
        percent(line.large.rate, digits) if line.large else "–",
        percent(line.escalated.rate, digits),
        f"{accepted.count} of {accepted.n}" if accepted.n else "none accepted",
    ]


def _money(findings: Findings) -> str:
    heads = ("node", "entries", "seconds", "cost", "basis", "saved", "basis")
    rows = [_node(node) for node in findings.nodes]
    report, n = findings.report, findings.report.overall.n
    known = ""
    if report.large_cost is not None and report.cascade_cost is not None:
        known = (
            f"<p>All {n} questions: the cascade cost <b>{dollars(report.cascade_cost)}</b>, the "
            f"large model alone would have cost <b>{dollars(report.large_cost)}</b>. The second "
            "figure is counted from the tokens of its own answers to all of them.</p>"
        )
    return f"""<h2>What each node cost and saved</h2>
{grid(heads, rows)}
<p class="soft">These are the entries of the ledger. While it runs, a cascade cannot know what the
large model would have cost on a draft that was accepted, so that saving is an estimate.</p>
{known}"""


def _node(node: NodeTotal) -> list[str]:
    return [
        node.node,
        f"{node.entries:,}",
        f"{node.latency_ms / 1000:.1f}",
        dollars(node.cost_usd),
        node.cost_basis,
        dollars(node.saved_usd),
        node.saved_basis,
    ]


def _origin(findings: Findings) -> str:
    facts = findings.facts
    large = (
        "ran live"
        if facts.large_source == "live"
        else "was not asked now; its tokens and its times are those of a recording"
    )
    items = [
        f"Measured in this run: every draft, its token probabilities, its times, every decision "
        f"({findings.seconds:.0f} s in all).",
        f"The large model, {facts.large}, {large}: {'; '.join(facts.remarks)}.",
        *(f"Assumed: {assumption}." for assumption in facts.assumptions),
        "Confidence is the geometric mean probability of the answer's tokens. It is a raw score: "
        "no probability of being right until it is calibrated, and the threshold is a default "
        "that nobody tuned on these questions.",
        "The questions were written for this demo and are put with a few examples, which suits a "
        "model of this size. They say little about your questions: run your own.",
    ]
    if findings.degraded:
        items.insert(0, f"{findings.degraded} answers are drafts because the large model failed.")
    listed = "".join(f"<li>{escape(item)}</li>" for item in items)
    return f"<h2>What was measured, recorded and assumed</h2><ul>{listed}</ul>"


def _answers(findings: Findings) -> str:
    heads = ("question", "right answer", "small", "confidence", "decision", "large")
    body = "".join(_answer(outcome) for outcome in findings.outcomes)
    cells = "".join(f'<th class="text">{head}</th>' for head in heads)
    return (
        f"<details><summary>All {findings.facts.n} answers</summary>"
        f'<div class="wide"><table><tr>{cells}</tr>{body}</table></div></details>'
    )


def _answer(outcome: Outcome) -> str:
    confidence = "–" if outcome.confidence is None else f"{outcome.confidence:.2f}"
    cells = (
        escape(outcome.question),
        escape(outcome.answer),
        _said(outcome.small_answer, outcome.small_correct),
        confidence,
        "escalated" if outcome.escalated else "accepted",
        _said(outcome.large_answer, outcome.large_correct),
    )
    return "<tr>" + "".join(f'<td class="text">{cell}</td>' for cell in cells) + "</tr>"


def _said(answer: str | None, right: bool | None) -> str:
    if answer is None:
        return "–"
    text = escape(answer.strip()) or "(nothing)"
    return text if right else f'<span class="wrong">{text}</span>'


def _per(amount: Decimal | None, n: int) -> float | None:
    return None if amount is None else float(amount) / n * PER
