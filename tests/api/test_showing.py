"""The three ways in which an answer is shown while it arises."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade import Cascade
from cascade.errors import (
    BadRequestError,
    ConfigurationError,
    ModelUnavailableError,
    StreamInterruptedError,
)
from cascade.events import Decided, Provisional, Retracted, Token
from cascade.graph import DEFAULT_RETRY
from cascade.models import Chunk, Request
from cascade.result import CascadeResult
from cascade.testing import ScriptedModel, reply

FAST = DEFAULT_RETRY._replace(initial_interval=0.0, jitter=False)


def made(probability: float, draft: str = "It is Canberra") -> Cascade:
    return Cascade(
        ScriptedModel(draft, logprobs=probability), ScriptedModel("Canberra, the capital")
    )


def told(cascade: Cascade, **options: Any) -> list[Any]:
    return list(cascade.stream("Which city?", **options))


def on_screen(events: list[Any]) -> str:
    """What a reader sees who shows pieces at once and takes back what is withdrawn."""
    text = ""
    for event in events:
        match event:
            case Provisional() | Token():
                text += event.text
            case Retracted():
                text = ""
    return text


def test_an_accepted_draft_is_shown_before_the_decision_and_once() -> None:
    *events, result = told(made(0.95), show="optimistic")
    kinds = [type(event) for event in events]
    assert kinds == [Provisional, Provisional, Provisional, Decided]
    assert on_screen(events) == result.answer == "It is Canberra"


def test_a_rejected_draft_is_withdrawn_before_the_large_model_answers() -> None:
    *events, result = told(made(0.3), show="optimistic")
    kinds = [type(event) for event in events]
    assert kinds[:5] == [Provisional, Provisional, Provisional, Decided, Retracted]
    assert set(kinds[5:]) == {Token}
    assert on_screen(events) == result.answer == "Canberra, the capital"


def test_verified_is_the_default_and_shows_no_draft() -> None:
    assert not any(isinstance(event, Provisional) for event in told(made(0.3)))
    assert told(made(0.3))[:-1] == told(made(0.3), show="verified")[:-1]


def test_final_is_the_result_alone() -> None:
    [result] = told(made(0.3), show="final")
    assert isinstance(result, CascadeResult)
    assert result.answer == "Canberra, the capital"


def test_another_way_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"show='all': give one of verified, optimistic"):
        told(made(0.9), show="all")


class Breaking(ScriptedModel):
    """Breaks off after two words, once."""

    broken = False

    async def _stream(self, request: Request) -> AsyncGenerator[Chunk]:
        if not self.broken:
            self.broken = True
            yield Chunk("It is ")
            raise StreamInterruptedError("the line broke", model="m", billed=None)
        async for chunk in super()._stream(request):
            yield chunk


def test_a_draft_whose_check_is_refused_is_withdrawn_before_the_error() -> None:
    refused = BadRequestError("no such parameter", model="m")
    small = ScriptedModel([reply("It is Canberra", probability=0.95), refused])
    cascade = Cascade(small, ScriptedModel("Canberra"), signals=["p_true"], retry_policy=FAST)
    events: list[Any] = []
    with pytest.raises(BadRequestError):
        events.extend(cascade.stream("Which city?", show="optimistic"))
    assert [type(event) for event in events] == [Provisional] * 3 + [Retracted]
    assert on_screen(events) == ""


def test_a_draft_that_breaks_off_is_withdrawn_before_it_is_tried_again() -> None:
    small = Breaking("It is Canberra", logprobs=0.95)
    cascade = Cascade(small, ScriptedModel("Canberra"), retry_policy=FAST)
    *events, result = told(cascade, show="optimistic")
    assert isinstance(events[1], Retracted)
    assert on_screen(events) == result.answer == "It is Canberra"


def test_a_graph_of_the_users_own_asks_for_drafts_by_its_configuration() -> None:
    config: Any = {"configurable": {"stream_tokens": "optimistic"}}
    events = list(
        made(0.3).graph.stream(
            {"messages": [("human", "Which city?")]},  # type: ignore[arg-type]
            config,
            stream_mode="custom",
        )
    )
    assert on_screen(events) == "Canberra, the capital"
    assert isinstance(events[0], Provisional)


@pytest.mark.parametrize("probability", [0.3, 0.95])
@pytest.mark.parametrize("asked", [{}, {"stream_tokens": True}, {"stream_tokens": False}])
def test_a_graph_of_the_users_own_tells_the_answer_unless_it_is_told_not_to(
    asked: dict[str, Any], probability: float
) -> None:
    graph = made(probability).graph
    given: Any = {"messages": [("human", "Which city?")]}
    modes: Any = ["custom", "values"]
    events: list[Any] = list(graph.stream(given, {"configurable": asked}, stream_mode=modes))
    told = [event for mode, event in events if mode == "custom"]
    answer = events[-1][1]["messages"][-1].text
    assert isinstance(told[0], Decided)
    assert on_screen(told) == ("" if asked.get("stream_tokens") is False else answer)


def test_a_draft_in_place_of_the_large_model_is_told_in_the_same_way() -> None:
    down = ModelUnavailableError("down", model="l")
    small = ScriptedModel("It is Sydney", logprobs=0.3)
    cascade = Cascade(small, ScriptedModel([down]), retry_policy=FAST)
    given: Any = {"messages": [("human", "Which city?")]}
    for asked, words in (({}, "It is Sydney"), ({"stream_tokens": False}, "")):
        config: Any = {"configurable": asked}
        told = list(cascade.graph.stream(given, config, stream_mode="custom"))
        assert on_screen(told) == words


@given(
    st.lists(st.sampled_from(["a", "bc", "\n", " ", "é"]), min_size=1, max_size=8),
    st.sampled_from([0.3, 0.95]),
    st.sampled_from(["verified", "optimistic"]),
)
def test_what_is_on_the_screen_in_the_end_is_the_answer(
    words: list[str], probability: float, show: str
) -> None:
    draft = "x" + "".join(words)
    *events, result = told(made(probability, draft), show=show)
    assert on_screen(events) == result.answer
