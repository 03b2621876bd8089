"""Recorded outcomes, the scorers that judge them, and what a cascade is worth on them."""

from cascade.evaluation.transcripts import (
    Outcome,
    Transcript,
    TranscriptWriter,
    read_transcripts,
    rows_of_pair,
)

__all__ = [
    "Outcome",
    "Transcript",
    "TranscriptWriter",
    "read_transcripts",
    "rows_of_pair",
]
