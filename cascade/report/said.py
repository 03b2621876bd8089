"""What users said of answers, apart from what random audits found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cascade._words import counted, percent
from cascade.ledger.verdicts import agreed
from cascade.report.reading import Row
from cascade.report.records import Figures, Said

WHOSE = {"accepted": "accepted drafts", "escalated": "answers of the large model"}


def said_of(rows: Sequence[Row]) -> Mapping[str, Said]:
    """What was said of accepted drafts and of the large model's answers."""
    found = {}
    for outcome in WHOSE:
        answers = [agreed(row.said.values()) for row in rows if row.outcome == outcome]
        judged = [wrong for wrong in answers if wrong is not None]
        if judged:
            n, wrong = len(answers), sum(judged)
            silent = n - len(judged)
            found[outcome] = Said(
                answers=n,
                judged=len(judged),
                wrong=wrong,
                low=wrong / n,
                high=(wrong + silent) / n,
            )
    return found


def sayings(found: Figures) -> list[str]:
    """The same in sentences."""
    return [_sentence(WHOSE[outcome], said) for outcome, said in found.said.items()]


def _sentence(whose: str, said: Said) -> str:
    return (
        f"{counted(said.judged, 'verdict')} about {said.answers:,} {whose}, {said.wrong:,} of them "
        f"wrong: whatever the others would have said, {percent(said.low)} to {percent(said.high)} "
        "are. Who says something is no random sample; audits are."
    )
