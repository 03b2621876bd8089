"""Streams of chat completions: what is shown, when, and how they end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openai
import pytest

from cascade.service.protocols import replying
from tests.servers import replies
from tests.service.talking import ASKED, HELLO, talking
from tests.service.test_chat_completions import WEATHER


async def chunks_of(talk: Any, **body: Any) -> list[Any]:
    stream = await talk.openai.chat.completions.create(
        **{"model": "support", "messages": ASKED, **body}, stream=True
    )
    return [chunk async for chunk in stream]


def text_of(chunks: list[Any], choice: int = 0) -> str:
    return "".join(
        part.delta.content or "" for c in chunks for part in c.choices if part.index == choice
    )


async def test_a_stream_comes_in_pieces_and_ends_with_the_report(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        for tier in ("large", "small"):
            chunks = await chunks_of(talk)
            assert chunks[0].choices[0].delta.role == "assistant"
            assert text_of(chunks) == HELLO
            assert len(chunks) > 5
            assert len({chunk.id for chunk in chunks}) == 1
            assert chunks[-1].choices[0].finish_reason == "stop"
            assert chunks[-1].cascade["tier"] == tier
            assert [c for c in chunks[:-1] if "cascade" in (c.model_extra or {})] == []


async def test_no_word_of_a_rejected_draft_is_shown(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        unsure = replies.openai_reply("WRONG", logprobs=[{"token": "WRONG", "logprob": -3.0}])
        talk.upstream.will(unsure)
        assert text_of(await chunks_of(talk)) == HELLO


async def test_usage_comes_last_and_only_where_it_is_asked_for(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        chunks = await chunks_of(talk, stream_options={"include_usage": True})
        assert chunks[-1].choices == []
        assert chunks[-1].usage.completion_tokens == 8
        assert {chunk.usage for chunk in chunks[:-1]} == {None}
        assert {chunk.usage for chunk in await chunks_of(talk)} == {None}


async def test_several_choices_are_told_apart(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        chunks = await chunks_of(talk, n=2)
        assert [text_of(chunks, choice) for choice in (0, 1)] == [HELLO, HELLO]
        reports = [chunk.cascade for chunk in chunks if chunk.choices[0].finish_reason]
        assert len({report["run_id"] for report in reports}) == 2


async def test_tool_calls_are_streamed_so_that_the_client_can_put_them_together(
    tmp_path: Path,
) -> None:
    async with (
        talking(tmp_path) as talk,
        talk.openai.chat.completions.stream(
            model="support",
            messages=[{"role": "user", "content": "How is it in 'Paris'?"}],
            tools=[WEATHER],
        ) as stream,
    ):
        answer = await stream.get_final_completion()
        calls: Any = answer.choices[0].message.tool_calls
        (call,) = calls
        assert call.function.name == "weather"
        assert json.loads(call.function.arguments) == {"city": "Paris"}
        assert answer.choices[0].finish_reason == "tool_calls"


async def test_log_probs_come_with_the_end_of_a_choice(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        await talk.sure()
        chunks = await chunks_of(talk, logprobs=True)
        tokens = chunks[-1].choices[0].logprobs.content
        assert "".join(token.token for token in tokens) == HELLO


async def test_all_at_the_end_for_those_who_want_it(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        chunks = await chunks_of(talk, extra_body={"cascade": {"show": "final"}})
        assert [c.choices[0].delta.content for c in chunks] == ["", HELLO, None]


async def test_what_fails_before_the_first_word_is_an_error_with_its_status(
    tmp_path: Path,
) -> None:
    async with talking(tmp_path) as talk:
        with pytest.raises(openai.NotFoundError):
            await chunks_of(talk, model="nope")
        talk.upstream.will(replies.error(401, "no"))
        with pytest.raises(openai.InternalServerError) as failed:
            await chunks_of(talk)
        assert failed.value.status_code == 502


async def test_what_breaks_off_after_a_word_is_an_error_in_the_stream(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        unsure = replies.openai_reply("a", logprobs=[{"token": "a", "logprob": -3.0}])
        broken = replies.sse([replies.openai_delta(content="Par")], done=False, ending="drop")
        talk.upstream.will(unsure, broken)
        stream = await talk.openai.chat.completions.create(
            model="support", messages=ASKED, stream=True
        )
        shown: list[str] = []

        async def show() -> None:
            async for chunk in stream:
                text = chunk.choices[0].delta.content or ""
                shown.append(text)

        with pytest.raises(openai.APIError, match="shown already"):
            await show()
        assert "".join(shown) == "Par"
        assert "expert" in {entry.node for entry in await talk.entries()}


async def test_a_stream_that_waits_for_the_decision_pings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replying, "PING_S", 0.05)
    async with talking(tmp_path) as talk:
        slow = replies.openai_reply("a", logprobs=[{"token": "a", "logprob": -0.01}], delay_s=0.4)
        talk.upstream.will(slow)
        response = await talk.chat(stream=True)
        lines = response.text.splitlines()
        assert lines.count(": waiting for the decision") >= 2
        talk.upstream.will(slow)
        assert text_of(await chunks_of(talk)) == "a"


async def test_a_failure_after_a_ping_is_told_in_the_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replying, "PING_S", 0.05)
    async with talking(tmp_path) as talk:
        talk.upstream.will(replies.error(401, "no", delay_s=0.3))
        response = await talk.chat(stream=True)
        assert response.status_code == 200
        error = json.loads(response.text.split("data: ")[-1])["error"]
        assert error["code"] == "upstream_failed"
        assert "[DONE]" not in response.text


async def test_half_a_character_breaks_no_stream(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        reply = replies.openai_reply(
            "a\ud800 % {}", logprobs=[{"token": "a\ud800 % {}", "logprob": -0.01}]
        )
        talk.upstream.will(reply, reply)
        whole = (await talk.chat()).json()["choices"][0]["message"]["content"]
        assert (whole, text_of(await chunks_of(talk))) == ("a\ud800 % {}",) * 2
