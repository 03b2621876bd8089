"""Whether an escalated question goes to the large model with its draft, to approve or correct.

Alone, the large model reads P tokens and writes L. With the draft it reads P + D + I (the draft of
D tokens, the instruction of I) and writes A tokens where it approves, which it does with chance a,
else about L again. So reuse is cheaper where

    a · (L − A) · out > (D + I) · in,

out and in being prices per token: the more so the longer the answer, and never where drafts that
are escalated are rarely right. That it is as good is no arithmetic: it has to be recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from cascade.errors import ConfigurationError
from cascade.state import Record, Usage

VERSION = 1
"""Of the instruction with which a draft is shown; evidence for another one says nothing."""

INSTRUCTION_TOKENS = 130
"""Of the instruction, about; the draft comes on top."""

APPROVAL_TOKENS = 8
"""That an approval writes, about."""

Wanted = Literal["correct"]


class Reuse(Record):
    """What a recorded comparison says about reusing drafts; made by `cascade evaluate`.

    Differences are "with the draft" minus "anew", over the same escalated questions, with their
    95 % ranges by bootstrap.

    Attributes:
        small, large: names of the models.
        version: of the instruction.
        n: questions compared.
        approval_rate: share of them whose draft was approved.
        quality: difference of the share of right answers, with its range.
        cost: difference of the cost as a share of writing anew, with its range.
        tolerance: quality that may be lost.
    """

    small: str
    large: str
    version: int = VERSION
    n: int = Field(ge=1)
    approval_rate: float = Field(ge=0, le=1)
    quality: tuple[float, float, float]
    cost: tuple[float, float, float]
    tolerance: float = Field(default=0.01, ge=0, le=1)

    @property
    def pays(self) -> bool:
        """Whether reuse costs less at equal quality, both beyond the noise of the comparison."""
        return self.cost[2] < 0 and self.quality[1] >= -self.tolerance

    @property
    def verdict(self) -> str:
        """The same in words, with the figures."""
        cost = f"cost {self.cost[0]:+.1%} ({self.cost[1]:+.1%} to {self.cost[2]:+.1%})"
        quality = (
            f"right answers {100 * self.quality[0]:+.1f} points "
            f"({100 * self.quality[1]:+.1f} to {100 * self.quality[2]:+.1f})"
        )
        word = "pays" if self.pays else "is not shown to pay"
        return f"reusing drafts {word}: {cost}, {quality}, on {self.n} escalated questions"

    @classmethod
    def load(cls, path: str | Path) -> Reuse:
        """Read what `save` wrote.

        Raises:
            ConfigurationError: there is no such file, or it holds something else.
        """
        try:
            return cls.model_validate_json(Path(path).read_bytes())
        except OSError as error:
            raise ConfigurationError(f"reuse={str(path)!r} cannot be read: {error}") from error
        except ValidationError as error:
            raise ConfigurationError(
                f"reuse={str(path)!r} is no comparison: make one with `cascade evaluate … "
                f"--reuse FILE` ({error.errors(include_url=False)[0]['msg']})."
            ) from error

    def save(self, path: str | Path) -> None:
        """Write it to a file, for `Cascade(reuse=…)`."""
        Path(path).write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


def is_cheaper(
    approval_rate: float,
    prompt_tokens: int,
    draft_tokens: int,
    large_tokens: int,
    cost: Callable[[Usage], float | None],
) -> bool | None:
    """Whether showing the draft is expected to cost less; None where nobody knows the price.

    Args:
        approval_rate: chance that the draft is approved.
        prompt_tokens: of the conversation.
        draft_tokens: of the draft.
        large_tokens: that the large model is expected to write anew.
        cost: dollars of a call of the large model.
    """
    shown = prompt_tokens + draft_tokens + INSTRUCTION_TOKENS
    anew = cost(Usage(input_tokens=prompt_tokens, output_tokens=large_tokens))
    approving = cost(Usage(input_tokens=shown, output_tokens=APPROVAL_TOKENS))
    correcting = cost(Usage(input_tokens=shown, output_tokens=large_tokens))
    if anew is None or approving is None or correcting is None:
        return None
    return approval_rate * approving + (1 - approval_rate) * correcting < anew


def check_reuse(
    given: Wanted | Reuse | str | Path | None, small: str, large: str
) -> Wanted | Reuse | None:
    """What is to become of escalated drafts.

    Args:
        given: by the user.
        small: name of the model that drafts.
        large: name of the large model.

    Raises:
        ConfigurationError: it is none of what may be given, or evidence about other models.
    """
    if given is None:
        return None
    if given == "correct":
        return "correct"
    if given == "auto":
        raise ConfigurationError(
            "reuse='auto' needs evidence: give the file that `cascade evaluate … --reuse FILE` "
            "wrote, or Reuse(…). reuse='correct' needs none."
        )
    found = Reuse.load(given) if isinstance(given, str | Path) else given
    if not isinstance(found, Reuse):
        raise ConfigurationError(
            f"reuse={given!r}: give 'correct', a file of `cascade evaluate … --reuse FILE`, or "
            "Reuse(…)."
        )
    if found.version != VERSION or (found.small, found.large) != (small, large):
        raise ConfigurationError(
            f"reuse: the comparison is of {found.small} and {found.large}, instruction "
            f"{found.version}; here are {small} and {large}, instruction {VERSION}. Compare again."
        )
    return found
