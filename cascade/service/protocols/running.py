"""The one path from a request of any protocol to its results: slot, policy, run, bill."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from langchain_core.runnables import RunnableConfig

from cascade._clock import steady_time
from cascade._masking import mask_places
from cascade._together import together
from cascade.agents.around import TAGS
from cascade.agents.base import LABELS
from cascade.agents.border import LOCAL_ONLY
from cascade.agents.deadline import ANSWER_BY
from cascade.agents.showing import DETAILS
from cascade.api import Cascade
from cascade.errors import BadRequestError, ConfigurationError, ContextLengthError
from cascade.events import Event
from cascade.integrations.chat_run import steady
from cascade.integrations.chat_settings import call_task
from cascade.result import CascadeResult
from cascade.service.admission import Admitted
from cascade.service.faults import ServiceError
from cascade.service.protocols.addresses import check_addresses
from cascade.service.protocols.asking import Wishes
from cascade.service.protocols.parameters import LABELLING, check_parameters
from cascade.service.telling import told

Tell = Callable[[int, Event], None]
"""Is told the number of a run and what happens in it."""

IN_TIME_S = 0.05
"""A request that waited no longer than this has its whole deadline: its policy is then one that
was made before."""


WAY_BACK = 0.05
"""Of the time that a client waits, kept back so that it still hears what became of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request, read.

    Attributes:
        model: the public name of the cascade.
        messages: in OpenAI's form, or as LangChain messages.
        settings: of the calls, as `call_task` takes them.
        wishes: what it says about itself.
        runs: how many answers are wanted.
        patience_s: how long its client waits for a whole answer; None where that is not known.
        at: when it arrived, by `time.monotonic`.
    """

    model: str
    messages: Sequence[Any]
    settings: Mapping[str, Any]
    wishes: Wishes
    runs: int = 1
    patience_s: float | None = None
    at: float = field(default_factory=time.monotonic)

    @property
    def left_s(self) -> float | None:
        """What is left of its deadline, in tenths of a second; None without one."""
        deadline, waited = self.wishes.deadline, time.monotonic() - self.at
        if deadline is None or waited <= IN_TIME_S:
            return deadline
        return max(0.1, round(deadline - waited, 1))


async def run(admitted: Admitted, asked: Asked, tell: Tell | None = None) -> list[CascadeResult]:
    """Answer a request, as often as it wants.

    Whatever becomes of it, what was put aside for a run is free when it ends. Cancelled, it cancels
    what is under way.

    Args:
        admitted: who asks.
        asked: what.
        tell: hears what happens; None where nobody watches.

    Raises:
        ServiceError: there is no place or no money for it, or it asks for what cannot be had.
        CascadeError: a run failed.
    """
    most = asked.settings.get("max_tokens")
    async with admitted.slot(
        asked.model,
        max_tokens=most if isinstance(most, int) else None,
        runs=asked.runs,
        timeout_s=_sooner(asked.wishes.deadline, None if tell else asked.patience_s),
    ) as cascade:
        variants = [_variant(cascade, asked, number) for number in range(asked.runs)]
        if asked.runs == 1:
            return [await _answer(admitted, variants[0], asked, 0, tell)]
        return await together(
            _answer(admitted, variant, asked, number, tell)
            for number, variant in enumerate(variants)
        )


def _variant(cascade: Cascade, asked: Asked, number: int) -> Cascade:
    """The cascade with the request's policy, tools and settings.

    With a seed, the runs of one request have seeds that follow each other: they would be the same
    answer otherwise.
    """
    settings = {name: value for name, value in asked.settings.items() if name not in LABELLING}
    if number and isinstance(settings.get("seed"), int):
        settings["seed"] += number
    check_parameters(settings, cascade)
    if not number:
        check_addresses(asked.messages, cascade)
    try:
        if asked.wishes.decides:
            cascade = cascade.with_policy(
                price_of_error=asked.wishes.price_of_error,
                max_harm=asked.wishes.max_harm,
                escalation_budget=asked.wishes.escalation_budget,
                deadline=_sooner(asked.left_s, cascade.options["deadline"]),
            )
        if settings:
            cascade = cascade.with_task(call_task(cascade.task, settings))
    except ConfigurationError as error:
        words = mask_places(str(error))
        raise ServiceError(400, words, code="invalid_value", param=_named(error)) from error
    return cascade


async def _answer(
    admitted: Admitted, cascade: Cascade, asked: Asked, number: int, tell: Tell | None
) -> CascadeResult:
    question, config = list(asked.messages), _config(admitted, asked, streams=tell is not None)
    try:
        if tell is None:
            return await cascade.ainvoke(question, config)
        events = cascade.astream(question, config, show=asked.wishes.show)
        return await _watched(events, number, tell)
    except BadRequestError as error:
        raise _refused(error) from error
    finally:
        admitted.settle()


async def _watched(
    events: AsyncGenerator[Event | CascadeResult], number: int, tell: Tell
) -> CascadeResult:
    result: CascadeResult | None = None
    async with aclosing(events), aclosing(steady(events, "ask again.")) as watched:
        async for event in watched:
            if isinstance(event, CascadeResult):
                result = event
            else:
                tell(number, event)
    assert result is not None, "it comes last"
    return result


def _config(admitted: Admitted, asked: Asked, *, streams: bool) -> RunnableConfig:
    stays = asked.wishes.local_only or admitted.local_only
    labels = {name: value for name, value in asked.settings.items() if name in LABELLING}
    configurable: dict[str, Any] = {LOCAL_ONLY: stays, DETAILS: True, LABELS: labels}
    if asked.patience_s is not None and not streams:  # the time of a stream is that between words
        left_s = asked.patience_s * (1 - WAY_BACK) - (time.monotonic() - asked.at)
        configurable[ANSWER_BY] = steady_time() + left_s
    tags = {**_whose(admitted, labels), **asked.wishes.tags, **admitted.tags}
    return RunnableConfig(configurable=configurable, metadata={TAGS: tags})


def _whose(admitted: Admitted, labels: Mapping[str, Any]) -> dict[str, str]:
    """Who asked, as OpenAI's clients say it, where lessons are kept: by it they are deleted."""
    named = labels.get("user") or labels.get("safety_identifier")
    if admitted.service.lessons is None or not isinstance(named, str):
        return {}
    return {"user": named}


def _refused(error: BadRequestError) -> ServiceError:
    """What a tier refuses, the client has asked for."""
    too_long = isinstance(error, ContextLengthError)
    code = "context_length_exceeded" if too_long else "refused_by_tier"
    return ServiceError(400, told(error), code=code)


def _sooner(asked: float | None, own: float | None) -> float | None:
    """A request may ask for less time than the cascade gives, and not for more."""
    return own if asked is None else asked if own is None else min(asked, own)


def _named(error: Exception) -> str | None:
    """The parameter that a message begins with: `max_harm=0.01: …`."""
    name, equals, _ = str(error).partition("=")
    return name if equals and name.isidentifier() else None
