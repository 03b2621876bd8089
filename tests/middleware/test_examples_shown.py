from typing import Any

from langchain_core.messages import HumanMessage, SystemMessage

from cascade.middleware import Examples
from tests.middleware.cascades import ask, both_drivers, large, pair, small

SHOWN = [("human", "Capital of Italy?"), ("ai", "Rome")]
Q = "Capital of Australia?"


def texts(model: Any) -> list[str]:
    return [str(message.text) for message in model.requests[-1].messages]


@both_drivers
async def test_examples_stand_between_the_system_message_and_the_conversation(driver: str) -> None:
    model = small()
    made = pair(model, middleware=[Examples(lambda messages: SHOWN)])
    await ask(made, [SystemMessage("Be short."), HumanMessage(Q)], driver)
    assert texts(model) == ["Be short.", "Capital of Italy?", "Rome", Q]


async def test_the_choice_may_be_async_and_sees_the_conversation() -> None:
    async def choose(messages: Any) -> Any:
        return [("human", f"like {messages[-1].text}"), ("ai", "so")]

    model = small()
    await ask(pair(model, middleware=[Examples(choose)]), Q)
    assert texts(model) == [f"like {Q}", "so", Q]


async def test_the_large_model_and_checks_are_shown_none() -> None:
    drafts, answers = small(p=0.3), large()
    made = pair(drafts, answers, signals=["p_true"], middleware=[Examples(lambda _: SHOWN)])
    await ask(made, Q)
    draft, check = ([str(m.text) for m in request.messages] for request in drafts.requests)
    assert "Rome" in draft
    assert "Rome" not in " ".join(check)
    assert texts(answers) == [Q]


async def test_no_baseline_counts_examples() -> None:
    long = [("human", "word " * 200), ("ai", "so")]
    plain = await ask(pair(small()), Q)
    shown = await ask(pair(small(), middleware=[Examples(lambda _: long)]), Q)
    # Both drafts count ten tokens of prompt; most of the second's are those of examples.
    assert shown.ledger.baseline_usd < plain.ledger.baseline_usd
