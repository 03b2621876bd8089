"""Lessons: what the large model answered in the small one's place, for examples and for training.

    store = open_lessons("sqlite:///lessons.db")
    cascade = Cascade(small, large, middleware=[Lessons(store), Memory(store)])

Nothing is kept unless this is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from cascade.teaching.lessons import UNSTATED, Lesson, LessonSelection, Terms, digest_of, terms_of

if TYPE_CHECKING:
    from cascade.teaching.exporting import Exported, ExportOptions, Status, export, status_of
    from cascade.teaching.keeping import Lessons
    from cascade.teaching.memory import Memory
    from cascade.teaching.store import Deleted, Export, LessonStore, open_lessons

_HOMES = {
    "Deleted": "store",
    "Export": "store",
    "ExportOptions": "exporting",
    "Exported": "exporting",
    "LessonStore": "store",
    "Lessons": "keeping",
    "Memory": "memory",
    "Status": "exporting",
    "export": "exporting",
    "open_lessons": "store",
    "status_of": "exporting",
}

__all__ = [
    "UNSTATED",
    "Deleted",
    "Export",
    "ExportOptions",
    "Exported",
    "Lesson",
    "LessonSelection",
    "LessonStore",
    "Lessons",
    "Memory",
    "Status",
    "Terms",
    "digest_of",
    "export",
    "open_lessons",
    "status_of",
    "terms_of",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
