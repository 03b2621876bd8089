"""Local only: questions that must not leave this machine."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal

from langchain_core.messages import BaseMessage

from cascade.errors import ConfigurationError, LocalOnlyError
from cascade.middleware.base import Ask, CascadeMiddleware, Decide, Slot
from cascade.policies.base import Situation, promises
from cascade.run import Call, CascadeRuntime, Run
from cascade.state import Completion, Decision

Stay = Literal["answer", "abstain"]
"""Fate of a question that has to stay on this machine where no tier on it is good enough:
the draft is the answer all the same, marked as degraded, or there is none."""

Private = Callable[[Sequence[BaseMessage]], "bool | Stay | Awaitable[bool | Stay]"]
"""Takes the conversation and says whether it has to stay on this machine."""

STAYS: tuple[Stay, ...] = ("abstain", "answer")
"""From the strictest on."""

STAMP = "local_only"
"""Key of an answer's `response_metadata`: its conversation stays on this machine from then on."""

STAYING = "the question has to stay on this machine"


class LocalOnly(CascadeMiddleware):
    """Border of this machine for questions: all, those of a rule, or those whose settings say so.

    No model elsewhere is asked about them, whatever the rest of the stack does. What would be
    escalated goes to a larger tier on this machine, else the draft is the answer (`degraded`), or
    there is none. A conversation stays once a question of it had to: its answers are stamped.
    No baseline is earned where the large model was no choice.

    Args:
        always: True or `"answer"`, or `"abstain"`; False where some questions may leave.
        private: your own rule for each question, such as `looks_personal`.
    """

    slot = Slot.GUARDS

    def __init__(self, always: bool | str = False, *, private: Private | None = None) -> None:
        self.always = read_stay(always, f"local_only is {always!r}")
        if private is not None and not callable(private):
            raise ConfigurationError(f"private={private!r}: give a function of the messages.")
        self.private = private

    async def before_run(self, run: Run, runtime: CascadeRuntime) -> None:
        """Decide whether the run stays here, by the strictest of what options, settings, earlier
        answers and the rule say, and move it to a tier that may be asked.

        Raises:
            ConfigurationError: the rule said something without meaning, or no tier is here.
        """
        own = run.settings.get("local_only")
        stays = [self.always, read_stay(own, f"local_only is {own!r}")]
        stays += [message.response_metadata.get(STAMP) for message in run.messages]
        if self.private is not None and not any(stay in STAYS for stay in stays):
            said = self.private(run.messages)
            said = await said if inspect.isawaitable(said) else said
            # Not the answer itself: it may quote the conversation.
            told = f"what private=… returned is of type {type(said).__name__}"
            stays.append(read_stay(said, told))
        stay: Stay | None = next((stay for stay in STAYS if stay in stays), None)
        if stay is None:
            return
        tiers = runtime.kernel.tiers
        allowed = [i for i, tier in enumerate(tiers) if tier.local]
        if not allowed:
            there = ", ".join(f"{tier.name} ({tier.model.name})" for tier in tiers)
            raise ConfigurationError(
                f"{STAYING}, but no tier is on it: {there}. Give a tier that is, such as "
                "'ollama:qwen2.5:3b', or say Tier(…, local=True)."
            )
        if promises(runtime.kernel.policy) is not None:
            stay = "abstain"  # what a certificate does not cover is no answer
        run.has_baseline = tiers[-1].local
        run.settings["local_only"] = stay  # caches and other middleware ask for it
        run.tier = next((i for i in allowed if i >= run.tier), allowed[-1])
        names: Any = [tiers[i].name for i in allowed]
        run.notes[self.name] = {"stay": stay, "tiers": names, "stamps": {STAMP: stay}}

    async def wrap_model_call(self, call: Call, handler: Ask) -> Completion:
        """Let no question through that has to stay.

        Raises:
            LocalOnlyError: the model is elsewhere; nothing was sent.
        """
        if self.name in call.run.notes and not call.tier.local:
            name = call.tier.model.name
            raise LocalOnlyError(f"{name} was not asked: {STAYING}.", model=name)
        return await handler(call)

    def wrap_decision(self, run: Run, situation: Situation, handler: Decide) -> Decision:
        """Escalate to a tier that is here; where there is none, accept or abstain."""
        decision = handler(situation)
        note: Any = run.notes.get(self.name)
        if note is None or situation.last or decision.action != "escalate":
            return decision
        names = [tier.tier for tier in situation.above]
        wanted = decision.tier or (names[0] if names else "a larger tier")
        here = [name for name in names if name in note["tiers"]]
        if here:
            larger = [name for name in here if names.index(name) >= names.index(wanted)]
            return decision.model_copy(update={"tier": (larger or here[-1:])[0]})
        usable = note["stay"] == "answer" and situation.assessment.objection is None
        reason = f"{decision.reason}; but {wanted} must not be asked: {STAYING}"
        action = "accept" if usable else "abstain"
        update = {"action": action, "tier": None, "once": True, "reason": reason}
        return decision.model_copy(update=update)


KEYS = re.compile(
    r"\b(?:sk|pk|rk|gsk|hf|xai|gh[pos]|glpat|xox[abprs])[-_][\w-]{8,}|\bgithub_pat_\w{8,}"
    r"|\bAKIA[A-Z0-9]{12,}|\bAIza[\w-]{20,}|\beyJ[\w-]{8,2000}\.[\w-]{8,2000}\.[\w-]*"
    r"|\bBearer\s+\S{8,}|\b[a-z][a-z0-9+.-]{0,30}://[^\s/@'\"]{1,300}@",
    re.IGNORECASE,
)
"""API keys by their usual prefixes, tokens, and addresses with a password."""

_PERSONAL = re.compile(
    # E-mail addresses, looked for at the beginnings of words alone: else the time that a long word
    # takes grows with the square of its length.
    r"(?<![\w.+-])[\w.+-]+@[\w-]+\.[\w.-]+"
    # Telephone, card and account numbers, but no dates and no parts of 1.
    r"|(?<!\d)(?<!\b0\.)(?!\d{4}-\d\d-\d\d(?![\d-]))\d[\d -]{7,}\d"
)

_READABLE = {"text": "text", "tool_call": "args"}
"""Blocks of a message that can be read here, and what of them is said."""


def looks_personal(messages: Sequence[BaseMessage]) -> bool:
    """True if there is an e-mail address, a key, or a telephone, card or account number in a
    conversation: `LocalOnly(private=looks_personal)`.

    What is no text, such as an image, counts as personal, since it cannot be read here. Names and
    addresses are not recognised: give a rule of your own, such as one that asks Presidio.
    """
    blocks: list[Any] = [block for message in messages for block in message.content_blocks]
    for block in blocks:
        # Of reasoning a provider may show nothing.
        said = block if block["type"] == "reasoning" else block.get(_READABLE.get(block["type"]))
        text = said if isinstance(said, str) else json.dumps(said, default=str)
        if said is None or _PERSONAL.search(text) or KEYS.search(text):
            return True
    return False


def read_stay(given: object, told: str) -> Stay | None:
    """Fate of a question that has to stay, None where it may leave; else an error says so."""
    if given is None or isinstance(given, bool):
        return "answer" if given else None
    if given not in STAYS:
        raise ConfigurationError(f"{told}: give True, False, 'answer' or 'abstain'.")
    return "answer" if given == "answer" else "abstain"
