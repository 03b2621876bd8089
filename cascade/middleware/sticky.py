"""Sticky: a conversation stays with its tier while the prompt cache there is worth it.

What is known of a conversation is stamped on its answers, and read from them, also after a restart.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from threading import Lock
from typing import Any

from pydantic import Field

from cascade._numbers import to_number
from cascade.errors import ModelError
from cascade.ledger.outlook import CHARACTERS_PER_TOKEN, TTL_S, characters, prefixes_of
from cascade.middleware.base import Ask, CascadeMiddleware, Slot, go_to
from cascade.policies.base import dollars
from cascade.run import Answer, Call, CascadeRuntime, Run, to_request
from cascade.state import Completion, Record, Usage
from cascade.tiers import OpenTier

PRIOR = 2
"""So many drafts of a conversation count as much as the rest of the traffic."""


class Turn(Record):
    """An earlier answer of a conversation, by its stamp: its place among the messages, the tier
    that answered, those that were asked, when, and the tokens of prompt and answer."""

    place: int
    tier: str
    asked: tuple[str, ...] = Field(min_length=1)
    at: float
    tokens: tuple[int, int]


class Sticky(CascadeMiddleware):
    """Stay of a conversation with the larger tier that answered last, while going back costs more.

    A provider reads the beginning of a prompt that it saw minutes ago at a fraction of the price.
    With p the chance that a draft of the first tier is escalated, going back saves
    (1 − p)·c_stay − c_draft on average, and p·(c_cold − c_stay) of what the cache of the larger
    tier is worth is thrown away; the conversation goes back when it saves more. p follows from the
    drafts of the conversation and of all traffic. A price by the hour counts as free, in favour of
    going back; where the larger tier has no price, nothing is kept. `ttl_s` is for how long
    providers keep a prompt that is not used.

    Raises:
        ConfigurationError: the seconds are not above 0.
    """

    slot = Slot.TIME

    def __init__(self, ttl_s: float = TTL_S) -> None:
        self.ttl_s = to_number("Sticky.ttl_s", ttl_s, above=0)
        self._drafted = self._escalated = 0
        self._lock = Lock()

    async def before_run(self, run: Run, runtime: CascadeRuntime) -> None:
        """Move the question to the tier of the conversation, where that is worth it."""
        tiers = runtime.kernel.tiers
        names = [tier.name for tier in tiers]
        turns = list[Turn]()
        for place, message in enumerate(run.messages):
            told = message.response_metadata
            # Another message, or another version of this, has no such stamp.
            with suppress(KeyError, TypeError, ValueError):
                turns.append(Turn(place=place, tier=told["tier"], **told[self.name]))
        turns = [turn for turn in turns if turn.tier in names]
        place = names.index(turns[-1].tier) if turns else 0
        if run.kind == "answer" and place > run.tier:
            reason = self._why(run, turns, tiers[0], tiers[place])
            if reason is not None and go_to(run, tiers, place, reason):
                run.notes[self.name] = {"stays": True}

    async def wrap_model_call(self, call: Call, handler: Ask) -> Completion:
        """Let the first tier answer where the larger one cannot be had, as without this."""
        try:
            return await handler(call)
        except ModelError as error:
            moved = call.node == "expert" and self.name in call.run.notes
            if not (moved and error.circumstantial):
                raise
        first = call.runtime.kernel.tiers[0]
        request = to_request(first, call.request.messages, call.run.settings)
        return await handler(replace(call, tier=first, request=request))

    async def after_run(self, run: Run, answer: Answer, runtime: CascadeRuntime) -> None:
        """Stamp the answer."""
        completion, first = answer.completion, runtime.kernel.tiers[0].name
        if run.kind != "answer" or completion is None or completion.cached:
            return
        calls = [e for e in run.entries if e.node in ("draft", "expert") and e.outcome == "ok"]
        asked, usage = list(dict.fromkeys(entry.tier for entry in calls)), completion.usage
        if first in asked[:1]:
            with self._lock:
                self._drafted += 1
                self._escalated += answer.source != first
        if usage.known and answer.source in asked:
            tokens = [usage.input_tokens, usage.output_tokens]
            stamp: Any = {"asked": asked, "at": int(time.time()), "tokens": tokens}
            run.notes[self.name] = {"stamps": {self.name: stamp}}

    def _why(self, run: Run, turns: Sequence[Turn], first: OpenTier, tier: OpenTier) -> str | None:
        """Reason to stay with a tier; None where there is none."""
        last, held = turns[-1], self._held(run, turns, tier)
        new = characters(run.messages[last.place + 1 :]) // CHARACTERS_PER_TOKEN
        tokens, output = sum(last.tokens) + new, last.tokens[1]

        def usd(tier: OpenTier, cached: int) -> float | None:
            usage = Usage(input_tokens=tokens, cached_tokens=cached, output_tokens=output)
            cost = tier.pricing.cost(usage)
            return None if cost is None else float(cost)

        stay, cold = usd(tier, held), usd(tier, 0)
        if not held or stay is None or cold is None:
            return None
        draft = usd(first, self._held(run, turns, first)) or 0.0
        drafted = [turn for turn in turns if turn.asked[0] == first.name]
        escalated = sum(turn.tier != first.name for turn in drafted)
        overall = (self._escalated + 1) / (self._drafted + 2)
        p = (escalated + PRIOR * overall) / (len(drafted) + PRIOR)
        saving, thrown = (1 - p) * stay - draft, p * (cold - stay)
        if saving > thrown:
            return None
        return (
            f"stays with {tier.name}, whose provider holds {held:,} tokens of the conversation: a "
            f"draft would save {dollars(saving)} on average, and {dollars(thrown)} of the cache "
            "would be lost"
        )

    def _held(self, run: Run, turns: Sequence[Turn], tier: OpenTier) -> int:
        """Tokens of the conversation in the prompt cache of a tier."""
        turn = next((turn for turn in reversed(turns) if tier.name in turn.asked), None)
        if turn is None or time.time() - turn.at > self.ttl_s:
            return 0
        kept = prefixes_of(tier, run.messages, Usage(input_tokens=turn.tokens[0]))
        return kept[-1][1] if kept else 0
