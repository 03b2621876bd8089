"""A key whose dollars are used up, through the clients of both protocols."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import ollama
import openai
import pytest

from tests.service.talking import ASKED, HELLO, Talk, as_key, talking

LITTLE = Decimal("0.0001")


async def poor(talk: Talk) -> tuple[openai.AsyncOpenAI, ollama.AsyncClient]:
    """The clients of a key that can pay for nothing."""
    secret = await talk.gateway.key("poor", day_usd=LITTLE)
    headers = {"Authorization": f"Bearer {secret}"}
    return as_key(talk, secret), ollama.AsyncClient(talk.gateway.server.address, headers=headers)


async def test_who_has_no_dollars_left_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    async with talking(tmp_path, auth=True) as talk:
        chat, own = await poor(talk)
        with pytest.raises(openai.APIStatusError) as refused:
            await chat.chat.completions.create(model="support", messages=ASKED)
        assert (refused.value.status_code, refused.value.code) == (402, "budget_exhausted")
        with pytest.raises(openai.APIStatusError) as streamed:
            await chat.chat.completions.create(model="support", messages=ASKED, stream=True)
        assert streamed.value.status_code == 402
        with pytest.raises(ollama.ResponseError) as in_ollama:
            await own.chat("support", ASKED)
        assert in_ollama.value.status_code == 402
        assert talk.upstream.received == []
        await own._client.aclose()


async def test_or_is_answered_on_this_machine_where_that_is_configured(tmp_path: Path) -> None:
    async with talking(
        tmp_path, auth=True, remote=True, budgets={"exhausted": "local_only"}
    ) as talk:
        chat, own = await poor(talk)
        answer = await chat.chat.completions.create(model="support", messages=ASKED)
        assert answer.choices[0].message.content == HELLO
        report = (answer.model_extra or {})["cascade"]
        assert (report["tier"], report["local_only"]) == ("small", "answer")
        assert (await own.chat("support", ASKED)).message.content == HELLO
        assert {request.body["model"] for request in talk.upstream.received} == {"small"}
        await own._client.aclose()
