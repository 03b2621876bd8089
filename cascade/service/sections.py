"""What the parts of a service's configuration have in common, and those about bad times."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """Base of the parts of a configuration: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class QueueConfig(Section):
    """A step of the fallback: wait until the large model is back."""

    seconds: Seconds | None = None
    """Longest wait; by default as long as the deadline leaves time to answer."""
    every: Seconds = 1.0
    """Seconds between two tries."""
    most: Count = 100
    """Requests that wait at a time; one more takes the next step."""


class SheddingConfig(Section):
    """What is pressure, and from which on work is left out that is not the answer. The largest
    pressure counts."""

    gate: bool = True
    """Count this cascade's gate: 1 where `concurrency` requests run, 2 where the queue is full."""
    bulkheads: bool = True
    """Count the places of its tiers in the same way."""
    in_flight: Count | None = None
    """Runs at work at the same time that are a pressure of 1."""
    slack_s: Seconds | None = None
    """Seconds left of a request's deadline at a pressure of 1; at half of them it is 2."""
    audits: Annotated[float, Field(gt=0)] = 0.8
    """From this pressure on accepted drafts have a lower chance of an audit."""
    shadows: Annotated[float, Field(gt=0)] = 1.0
    """From this on no drafts are made beside the large model's answers."""
    signals: Annotated[float, Field(gt=0)] = 1.2
    """From this on no paid signal is taken where a free one gives a confidence."""
    audits_kept: Share = 0.1
    """Of the chance of an audit, under pressure."""


class TermsConfig(Section):
    """What may be done with the answers of a model. Nothing is assumed of any vendor."""

    may_train: bool | None = None
    """Whether another model may be trained on them; unless it is stated, they are not exported."""
    may_remember: bool = True
    """Whether they may be shown to another model as examples."""
    source: str = ""
    """Where that is written."""
    as_of: date | None = None
    """The day on which it was read there."""


class LessonsConfig(Section):
    """Questions that went to a larger model, with draft and answer, and what users say of them."""

    url: str | None = Field(default=None, repr=False)
    """`sqlite:///lessons.db` or `postgresql://…`; by default the ledger's database."""
    mask_secrets: bool = True
    """Take keys, addresses and numbers out of them."""
    keep_days: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = 90
    """Delete those that are older; `null` for never."""
    terms: Mapping[str, TermsConfig] = Field(default_factory=dict)
    """What may be done with answers, by the model: `provider:name`, or `provider:*`."""
