"""Border of this machine: what a question that has to stay there meets at its edges."""

from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from cascade import Cascade, Tier
from cascade.errors import ConfigurationError, MalformedResponseError
from cascade.middleware import LocalOnly, Retries
from cascade.middleware.local_only import looks_personal
from cascade.policies import CertifiedPolicy
from cascade.testing import ScriptedModel
from tests.confidence.drafts import CERTIFICATE


def pair(*middleware: Any, here: bool = True, **options: Any) -> tuple[Cascade, ScriptedModel]:
    large = ScriptedModel("Canberra", name="large", local=False)
    small = ScriptedModel("Sydney", name="small", logprobs=0.3, local=here)
    return Cascade(Tier(small), Tier(large), middleware=middleware, **options), large


async def test_without_a_tier_on_this_machine_a_question_that_has_to_stay_is_refused() -> None:
    cascade, large = pair(here=False)
    with pytest.raises(ConfigurationError, match=r"no tier is on it: small.*local=True"):
        await cascade.ainvoke("?", local_only=True)
    assert large.requests == []


async def test_what_a_certificate_does_not_cover_is_no_answer() -> None:
    cascade, large = pair(policy=CertifiedPolicy(CERTIFICATE))
    down = Tier(ScriptedModel([MalformedResponseError("torn", model="m")]), name="middle")
    tiers = [cascade.tiers[0].settings, down, Tier(large, name="large")]
    for asked in (cascade, Cascade(tiers=tiers, policy=cascade.policy, middleware=[Retries(1)])):
        result = await asked.ainvoke("?", local_only=True)
        assert (result.abstained, result.answer, large.requests) == (True, "", [])


@pytest.mark.parametrize("stamp", [True, "somewhere", 1])
async def test_a_stamp_of_others_does_not_stand_in_for_the_rule(stamp: Any) -> None:
    cascade, large = pair(LocalOnly(private=lambda messages: True))
    said = AIMessage("Hello", response_metadata={"local_only": stamp})
    await cascade.ainvoke([HumanMessage("Hi"), said, HumanMessage("a secret?")])
    assert large.requests == []


async def test_values_without_a_meaning_are_named() -> None:
    with pytest.raises(ConfigurationError, match=r"private='names': give a function"):
        LocalOnly(private="names")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"local_only is 'here': give True"):
        LocalOnly("here")
    cascade, large = pair(LocalOnly(private=lambda messages: "perhaps"))  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"private=… returned.*type str"):
        await cascade.ainvoke("a secret?")
    assert large.requests == []


@pytest.mark.parametrize(
    ("message", "personal"),
    [
        (HumanMessage([{"type": "text", "text": "Is it 2026-11-28?"}]), False),
        (HumanMessage(["call +49 30 1234567"]), True),
        (HumanMessage([{"type": "image", "url": "x"}]), True),
        (AIMessage([{"type": "reasoning", "reasoning": "bob@example.org"}]), True),
        (AIMessage([{"type": "reasoning", "id": "rs_1", "summary": []}]), False),
        (AIMessage("", tool_calls=[{"name": "f", "args": {"to": "b@x.org"}, "id": "1"}]), True),
    ],
)
def test_personal_data_is_found_in_all_parts_of_a_message(message: Any, personal: bool) -> None:
    assert looks_personal([message]) is personal
