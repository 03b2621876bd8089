"""The questions of the demo: written for it, of eight kinds, each with a checkable answer."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from importlib.resources import files
from itertools import zip_longest
from typing import Literal

from langchain_core.messages import BaseMessage

from cascade.demo.prompts import to_prompt
from cascade.demo.scoring import is_right
from cascade.errors import ConfigurationError
from cascade.state import Record


class Question(Record):
    """A question with its right answers.

    Attributes:
        id: the kind and a number.
        kind: what sort of question it is; each kind has examples of its own.
        question: the text as it is asked, after the examples.
        answer: the right answer.
        accepted: other answers that are right as well.
        split: which half of its kind it belongs to. A threshold may be tuned on the
            calibration half and must be judged on the test half.
    """

    id: str
    kind: str
    question: str
    answer: str
    accepted: tuple[str, ...] = ()
    split: Literal["calibration", "test"]

    @property
    def messages(self) -> list[BaseMessage]:
        """The conversation that puts the question to any model."""
        return to_prompt(self.kind, self.question)

    def is_right(self, answer: str) -> bool:
        """Whether a model's answer is right."""
        return is_right(answer, (self.answer, *self.accepted))


@lru_cache(maxsize=1)
def load_questions() -> tuple[Question, ...]:
    """All questions, sorted by kind."""
    text = files("cascade.demo").joinpath("questions.jsonl").read_text(encoding="utf-8")
    return tuple(Question.model_validate_json(line) for line in text.splitlines())


def take(n: int | None = None) -> tuple[Question, ...]:
    """The first `n` questions in turn over the kinds, sorted by kind; all of them without `n`.

    They stay sorted because neighbours share their examples, which llama.cpp then reads once.

    Raises:
        ConfigurationError: `n` is below 1 or above the number of questions.
    """
    everything = load_questions()
    if n is None:
        return everything
    if not 1 <= n <= len(everything):
        raise ConfigurationError(f"n={n}: the demo has 1 to {len(everything)} questions.")
    chosen = {question.id for question in _in_turn(everything)[:n]}
    return tuple(question for question in everything if question.id in chosen)


def _in_turn(questions: Iterable[Question]) -> list[Question]:
    kinds: dict[str, list[Question]] = {}
    for question in questions:
        kinds.setdefault(question.kind, []).append(question)
    rounds = zip_longest(*kinds.values())
    return [question for one_of_each in rounds for question in one_of_each if question is not None]
