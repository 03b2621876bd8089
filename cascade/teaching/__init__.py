"""Lessons: what the large model answered in the small one's place, for examples and for training.

    store = open_lessons("sqlite:///lessons.db")
    cascade = Cascade(small, large, middleware=[Lessons(store), Memory(store)])

Nothing is kept unless this is asked for. Export is `cascade.teaching.exporting`.
"""

from cascade.teaching.keeping import Lessons
from cascade.teaching.lessons import UNSTATED, Lesson, LessonSelection, Terms, terms_of
from cascade.teaching.memory import Memory
from cascade.teaching.store import Deleted, LessonStore, open_lessons

__all__ = [
    "UNSTATED",
    "Deleted",
    "Lesson",
    "LessonSelection",
    "LessonStore",
    "Lessons",
    "Memory",
    "Terms",
    "open_lessons",
    "terms_of",
]
