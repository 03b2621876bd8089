"""What may be done with a large model's answers: some vendors forbid training on them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

from pydantic import Field

from cascade.state import Record


class Terms(Record):
    """What the terms of use, or the licence, of a model allow with its answers.

    Nothing is assumed about any vendor: terms differ by contract and change. Who uses the answers
    states them, with the place where it is written.

    Attributes:
        may_train: whether another model may be trained on the answers. None is not stated, and
            then they are not exported for training.
        may_remember: whether they may be shown to another model as examples, at inference. No
            model is changed by that; it is allowed unless it is stated that it is not.
        source: where it is written, as a rule an address.
        as_of: the day on which it was read there.
        note: anything to remember, such as a contract's number.
    """

    may_train: bool | None = None
    may_remember: bool = True
    source: str = ""
    as_of: date | None = None
    note: str = Field(default="", max_length=2_000)

    def within(self, other: Terms | None) -> Terms:
        """These terms where others were stated as well: what either forbids is forbidden.

        An answer was given under the terms of its day, and is used under those of today.
        """
        if other is None:
            return self
        trains = (self.may_train, other.may_train)
        may_train = False if False in trains else True if True in trains else None
        remembers = self.may_remember and other.may_remember
        return self.model_copy(update={"may_train": may_train, "may_remember": remembers})


UNSTATED = Terms()
"""Of a model of which nothing was stated: its answers are not exported for training."""


def terms_of(model: str | None, stated: Mapping[str, Terms]) -> Terms:
    """The terms of a model by its name: as it is (`openai:gpt-5.1`), else by its longest prefix
    that ends in `*` (`openai:*`); `UNSTATED` where there are none."""
    if model is None:
        return UNSTATED
    if model in stated:
        return stated[model]
    fitting = [name for name in stated if name.endswith("*") and model.startswith(name[:-1])]
    return stated[max(fitting, key=len)] if fitting else UNSTATED


def permitted(model: str | None, given: Terms, stated: Mapping[str, Terms]) -> Terms:
    """What may be done with an answer: by the terms that it was given under, and by today's.

    Args:
        model: whose answer it is.
        given: the terms that stand in the lesson.
        stated: what `LessonStore.terms` says today.
    """
    return given.within(terms_of(model, stated))
