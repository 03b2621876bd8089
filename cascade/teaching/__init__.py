"""Escalations as lessons: what the large model answered where the small one could not, kept by who
asks for it, and what users said of answers.

lessons = Lessons(open_lessons("sqlite:///lessons.db"))
cascade = Cascade(small=..., large=..., lessons=lessons)

Nothing is kept unless this is asked for; see `docs/lessons.md`.
"""

from cascade.teaching.keeping import OPT_OUT, Lessons
from cascade.teaching.lessons import Lesson, LessonSelection, digest_of
from cascade.teaching.opening import open_lessons
from cascade.teaching.pairs import LabelledDraft, LabelledDrafts, labelled_drafts
from cascade.teaching.store import (
    Deleted,
    Dependent,
    Export,
    Gone,
    LessonStore,
)
from cascade.teaching.terms import UNSTATED, Terms, permitted, terms_of

__all__ = [
    "OPT_OUT",
    "UNSTATED",
    "Deleted",
    "Dependent",
    "Export",
    "Gone",
    "LabelledDraft",
    "LabelledDrafts",
    "Lesson",
    "LessonSelection",
    "LessonStore",
    "Lessons",
    "Terms",
    "digest_of",
    "labelled_drafts",
    "open_lessons",
    "permitted",
    "terms_of",
]
