"""Lessons as examples for the small model; see `docs/memory.md`."""

from cascade.teaching.memory.evidence import Evidence, Pair, Standing
from cascade.teaching.memory.groups import Group, Groups
from cascade.teaching.memory.index import Found, LessonIndex, MeaningIndex, WordIndex
from cascade.teaching.memory.memory import Memory, same_answer

__all__ = [
    "Evidence",
    "Found",
    "Group",
    "Groups",
    "LessonIndex",
    "MeaningIndex",
    "Memory",
    "Pair",
    "Standing",
    "WordIndex",
    "same_answer",
]
