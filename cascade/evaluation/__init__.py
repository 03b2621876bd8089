"""Evaluation of a cascade, on recorded answers and from its ledger.

`recordings` reads transcripts and examples, `scorers` judge answers, `verdict.evaluate` says what
a cascade would have cost, `plan` needs no answers at all, and `report` reads a ledger. Needs the
extra `calibrate`, except for recordings and scorers.
"""

from cascade.evaluation.recordings import (
    Example,
    Outcome,
    Transcript,
    read_examples,
    read_transcripts,
)

__all__ = ["Example", "Outcome", "Transcript", "read_examples", "read_transcripts"]
