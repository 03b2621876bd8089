"""What a report makes of audits that come long after their run, and of text from outside."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

from cascade._words import counted, printable
from cascade.ledger.store import Selection
from tests.report.ledgers import HOUR, NOON, Story, call, reported


def test_a_late_audit_is_paid_in_its_period_and_is_no_request_of_it() -> None:
    early = Story(NOON).draft().accept(rate=0.5)
    late = call(early.run, "audit", Decimal("0.01"), at=NOON + 5 * HOUR)
    own = Story(NOON + 5 * HOUR).draft().accept()
    report = reported([early, late, own], Selection(since=NOON + 4 * HOUR))
    assert (report.requests, report.outcomes) == (1, {"accepted": 1})
    [audit] = [line for line in report.tables[0].lines if line.name == "audit"]
    assert audit.cost_usd == Decimal("0.01")
    assert report.total.entries == 3
    whole = reported([early, late, own], Selection(since=NOON - timedelta(days=1)))
    assert whole.requests == 2


def test_what_could_steer_a_terminal_is_not_printed() -> None:
    story = Story().draft(price="\x1b[31mred\x07").accept()
    text = reported([story]).text()
    assert "\x1b" not in text
    assert "\N{REPLACEMENT CHARACTER}[31mred" in text
    assert printable("a\nb\u202e–ü") == "a\nb\N{REPLACEMENT CHARACTER}–ü"


def test_one_is_one() -> None:
    assert (counted(1, "audit"), counted(2000, "audit")) == ("1 audit", "2,000 audits")
    assert "1 request; 1 accepted; 0 audits" in reported([Story().draft().accept()]).text()
