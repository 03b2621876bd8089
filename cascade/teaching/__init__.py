"""Lessons: what the large model answered in the small one's place, for examples and for training
(`cascade.teaching.exporting`). Nothing is kept unless this is asked for."""

from cascade.teaching.lessons import Lesson as Lesson
from cascade.teaching.lessons import Lessons as Lessons
from cascade.teaching.lessons import LessonSelection as LessonSelection
from cascade.teaching.lessons import LessonStore as LessonStore
from cascade.teaching.lessons import Terms as Terms
from cascade.teaching.lessons import open_lessons as open_lessons
from cascade.teaching.memory import Memory as Memory
