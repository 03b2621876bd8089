"""Runs examples through a cascade and writes down what every model made of them.

Each example is drafted, checked with all signals, and answered by the large model too, through
the very graph that answers users; the outcomes go line by line into a file of transcripts.
Interrupted, the next run goes on where it stopped and pays for nothing twice.
"""

from __future__ import annotations

from cascade.collect.collecting import AlwaysEscalate, Collected, collect
from cascade.collect.examples import Example, expected_cost, read_examples
from cascade.collect.labelled import labelled_drafts, made_for

__all__ = [
    "AlwaysEscalate",
    "Collected",
    "Example",
    "collect",
    "expected_cost",
    "labelled_drafts",
    "made_for",
    "read_examples",
]
