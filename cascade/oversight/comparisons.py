"""Comparisons of a draft with the large model's answer, by computing alone or with a judge.

The large model is the reference: where the two differ and no judge was asked, the draft counts as
wrong. A comparison that cannot be made says so and guesses nothing.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from cascade.agents.comparing import Answers, Ask, Compare, Comparison
from cascade.confidence.answers import normalise
from cascade.oversight.judging import BlindJudge
from cascade.state import Completion

SHORT = 8
"""Words of an answer up to which its wording is compared; longer ones say the same in many ways."""

NO_JUDGE = (
    "such answers are compared by a judge: give Audits(judge=…), or compare='numeric' where they "
    "end in a number"
)

UserCompare = Callable[[str, str, str], float | Awaitable[float]]
"""A user's own: (question, draft, large model's answer) → loss in [−1, 1]; it may be async."""

Compute = Callable[[Completion, Completion], Comparison]

_BARE = re.compile(r"(?=(?:\D*\d){1,14}\D*$)[-+$€£]*\d+(?:\.\d+)?(?:e[-+]?\d+)?%?")
"""Of at most 14 digits: floats tell those apart. Longer ones are names, and compared as text."""

SAME_NUMBER = 1e-15
"""Apart by rounding alone: order numbers that differ in their last digit are two numbers."""

logger = logging.getLogger("cascade")


def exact(draft: Completion, large: Completion) -> Comparison:
    """The same text, apart from case, punctuation, articles and the words around the answer."""
    from cascade.evaluation.scorers.text import exact as same  # noqa: PLC0415 - not at start

    if not large.text.strip():
        return Comparison(None, "the large model's answer is empty")
    return _found(bool(same(draft.text, large.text)), "exactly")


def numeric(draft: Completion, large: Completion, tolerance: float = 1e-6) -> Comparison:
    """The same number at the end, as the scorer `numeric` reads it.

    Args:
        draft: an answer with a number.
        large: another.
        tolerance: how far they may be apart, as a share.
    """
    from cascade.evaluation.scorers.numeric import NumericScorer, number_in  # noqa: PLC0415

    if number_in(large.text) is None:
        return Comparison(None, "there is no number in the large model's answer")
    return _found(bool(NumericScorer(tolerance)(draft.text, large.text)), "by number")


def schema(draft: Completion, large: Completion) -> Comparison:
    """The same JSON fields with the same values; none more, none less."""
    from cascade.evaluation.scorers.fields import JsonScorer, json_in  # noqa: PLC0415

    try:
        json_in(large.text)
    except ValueError:
        return Comparison(None, "the large model's answer is no JSON")
    try:
        json_in(draft.text)
    except ValueError:
        return Comparison(1.0, "the draft is no JSON")
    score = JsonScorer()
    both = score(draft.text, large.text) and score(large.text, draft.text)
    return _found(bool(both), "by fields")


def tool_calls(draft: Completion, large: Completion) -> Comparison:
    """The same tools called with the same arguments, in whatever order."""
    return _found(_calls(draft) == _calls(large), "by tool calls")


def _calls(answer: Completion) -> Counter[tuple[str, str]]:
    return Counter(
        (call["name"], json.dumps(call["args"], sort_keys=True, default=str))
        for call in answer.tool_calls
    )


def _found(same: bool, how: str) -> Comparison:
    return Comparison(0.0 if same else 1.0, f"compared {how}: {'same' if same else 'different'}")


@dataclass(frozen=True, slots=True)
class Computed:
    """A comparison that only computes, behind the common interface."""

    compute: Compute

    async def __call__(self, answers: Answers, ask: Ask) -> Comparison:
        """Compare; no model is asked."""
        del ask
        # In a thread: answers may be long, and the event loop belongs to the requests.
        return await asyncio.to_thread(self.compute, answers.draft, answers.large)


@dataclass(frozen=True, slots=True)
class Automatic:
    """The comparison that fits the answers.

    With a schema by fields, with tool calls by these; equal texts are equal; short ones by number
    or wording, long ones by the judge. With a judge, short ones that are worded differently go to
    it as well. "Canberra" and "It is Canberra" are never called different: only a judge can tell.
    """

    judge: BlindJudge | None = None
    has_schema: bool = False

    async def __call__(self, answers: Answers, ask: Ask) -> Comparison:
        """Compare, asking the judge where nothing else can tell."""
        found = await asyncio.to_thread(self._computed, answers)
        if found is not None:
            return found
        if self.judge is None:
            return Comparison(None, NO_JUDGE)
        return await self.judge(answers, ask)

    def _computed(self, answers: Answers) -> Comparison | None:
        draft, large = answers.draft, answers.large
        if draft.tool_calls or large.tool_calls:
            return tool_calls(draft, large)
        if self.has_schema if answers.has_schema is None else answers.has_schema:
            return schema(draft, large)
        if _are_numbers(draft, large):
            return numeric(draft, large, SAME_NUMBER)
        if _are_short(draft, large) or draft.text.strip() == large.text.strip():
            found = exact(draft, large)
            if not found.loss or (self.judge is None and not _one_holds_the_other(draft, large)):
                return found
        return None


def _are_short(*answers: Completion) -> bool:
    return all(len(answer.text.split()) <= SHORT for answer in answers)


def _one_holds_the_other(draft: Completion, large: Completion) -> bool:
    from cascade.evaluation.scorers.text import contains_any  # noqa: PLC0415 - not at start

    return any(
        normalise(part.text) and contains_any(normalise(whole.text), normalise(part.text))
        for whole, part in ((draft, large), (large, draft))
    )


def _are_numbers(*answers: Completion) -> bool:
    """Short answers with a number each, one of which is nothing but that."""
    from cascade.evaluation.scorers.numeric import number_in  # noqa: PLC0415 - not at start

    return (
        _are_short(*answers)
        and any(_BARE.fullmatch(normalise(answer.text)) for answer in answers)
        and all(number_in(answer.text) is not None for answer in answers)
    )


@dataclass(frozen=True, slots=True)
class UsersOwn:
    """A user's function as a comparison; what is wrong with it costs the loss, not the audit."""

    function: UserCompare

    async def __call__(self, answers: Answers, ask: Ask) -> Comparison:
        """Call it with texts; tool calls are written out in them."""
        del ask
        question = str(answers.messages[-1].text)
        try:
            # In a thread, since what is not async may take its time.
            loss: Any = await asyncio.to_thread(
                self.function, question, answers.draft.transcript, answers.large.transcript
            )
            if inspect.isawaitable(loss):
                loss = await loss
        except Exception as error:
            logger.exception("the comparison of an audit failed")
            return Comparison(None, f"your comparison raised {type(error).__name__}")
        if not (isinstance(loss, int | float) and -1 <= loss <= 1):
            problem = f"your comparison returned {loss!r:.40}: a loss is a number from -1 to 1"
            logger.error(problem)
            return Comparison(None, problem)
        return Comparison(float(loss), "compared by your function")


COMPUTED: dict[str, Compute] = {"exact": exact, "numeric": numeric, "schema": schema}


def comparison(
    compare: str | UserCompare, judge: BlindJudge | None, *, has_schema: bool
) -> Compare:
    """The comparison that the options of audits mean; `Audits` has checked that it exists.

    Args:
        compare: `auto`, `exact`, `numeric`, `schema`, `judge`, or a user's function.
        judge: asked by `auto` and `judge`.
        has_schema: whether answers must satisfy a schema.
    """
    if callable(compare):
        return UsersOwn(compare)
    if compare == "judge":
        assert judge is not None, "checked by Audits"
        return judge
    if compare in COMPUTED:
        return Computed(COMPUTED[compare])
    return Automatic(judge, has_schema)
