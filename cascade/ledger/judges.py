"""How often a judge of audits errs, as the result entries of audits tell it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cascade.state import LedgerEntry, Record

DISAGREED = "judge_disagreed"
"""Signal of an audit's result: 1 where the judge, asked again in the other order, said something
else, 0 where it said the same. Absent where it was asked once."""

PLANTED_WRONG = "judge_planted_wrong"
"""Signal of an audit's result: 1 where the judge preferred one of two equal answers, 0 where it
said that they are equal. Absent where none was planted."""


class JudgeErrors(Record):
    """What was seen of a judge's errors.

    Attributes:
        repeated: comparisons that it made twice, in either order.
        disagreed: those among them with two different verdicts.
        planted: comparisons of an answer with itself.
        planted_wrong: those among them where it preferred one.
    """

    repeated: int = 0
    disagreed: int = 0
    planted: int = 0
    planted_wrong: int = 0

    @property
    def rate(self) -> float | None:
        """Share of repeated comparisons that came out differently; None before the first.

        A judge that prefers the first answer whatever it says has a rate of 1.
        """
        return self.disagreed / self.repeated if self.repeated else None

    def plus(self, signals: Mapping[str, float] | None) -> JudgeErrors:
        """With the signals of one more result entry."""
        given = signals or {}
        return JudgeErrors(
            repeated=self.repeated + (DISAGREED in given),
            disagreed=self.disagreed + bool(given.get(DISAGREED)),
            planted=self.planted + (PLANTED_WRONG in given),
            planted_wrong=self.planted_wrong + bool(given.get(PLANTED_WRONG)),
        )


def judge_errors(entries: Iterable[LedgerEntry]) -> JudgeErrors:
    """The errors of the judge in these entries; those of other kinds do not count."""
    errors = JudgeErrors()
    for entry in entries:
        errors = errors.plus(entry.signals)
    return errors
