"""Recorded outcomes, the scorers that judge them, and what a cascade is worth on them."""

from cascade.evaluation.transcripts import (
    Outcome,
    PairColumns,
    Transcript,
    TranscriptWriter,
    pair_columns,
    read_pair,
    read_transcripts,
)

__all__ = [
    "Outcome",
    "PairColumns",
    "Transcript",
    "TranscriptWriter",
    "pair_columns",
    "read_pair",
    "read_transcripts",
]
