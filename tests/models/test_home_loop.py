"""What comes after a reply uses a stranger's client on the loop of the reply."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import httpx
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import PrivateAttr

from cascade import Cascade, MemoryLedger, Tier
from cascade._background import Background
from cascade._portal import portal_loop
from cascade.models import home_loop
from cascade.models.home_loop import at_home
from cascade.testing import ScriptedModel, reply
from tests.servers.fake import FakeServer


class Here(BaseChatModel):
    """Notes on which loop it was asked."""

    _loops: list[asyncio.AbstractEventLoop] = PrivateAttr(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "here"

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        raise NotImplementedError

    async def _agenerate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        self._loops.append(asyncio.get_running_loop())
        await asyncio.sleep(0.01)
        return ChatResult(generations=[ChatGeneration(message=AIMessage("Canberra"))])


def audited(large: BaseChatModel) -> Cascade:
    small = ScriptedModel([reply("Sydney", probability=0.9)])
    return Cascade(small, Tier(large), audit_rate=1.0, ledger=MemoryLedger())


async def test_an_audit_asks_on_the_loop_that_replied() -> None:
    chat = Here()
    async with audited(chat) as cascade:
        await cascade.ainvoke("?")
    assert chat._loops == [asyncio.get_running_loop()]


def test_an_audit_of_a_synchronous_call_asks_on_the_background_loop() -> None:
    chat = Here()
    with audited(chat) as cascade:
        cascade.invoke("?")
    assert chat._loops == [portal_loop()]


class OverHttp(BaseChatModel):
    """A stranger's chat model with a client that it keeps, as those of LangChain do."""

    url: str
    _client: httpx.AsyncClient = PrivateAttr(default_factory=httpx.AsyncClient)

    @property
    def _llm_type(self) -> str:
        return "http"

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        raise NotImplementedError

    async def _agenerate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        asked = {"model": "m", "messages": [{"role": "user", "content": messages[-1].text}]}
        answer = (await self._client.post(self.url, json=asked)).json()
        text = answer["choices"][0]["message"]["content"]
        return ChatResult(generations=[ChatGeneration(message=AIMessage(text))])


async def test_audits_do_not_break_the_connections_of_requests(server: FakeServer) -> None:
    drafts = ScriptedModel(
        lambda r: reply("Sydney", probability=0.9 if int(r.messages[-1].text) % 2 else 0.2),
        returns_logprobs=True,
    )
    ledger = MemoryLedger()
    large = OverHttp(url=f"http://127.0.0.1:{server.port}/v1/chat/completions")
    async with Cascade(drafts, large, audit_rate=1.0, ledger=ledger) as cascade:
        for _ in range(3):
            results = await cascade.abatch([str(n) for n in range(30)])
            assert not any(result.degraded for result in results)
    assert {entry.outcome for entry in ledger.entries} == {"ok"}
    assert sum(entry.node == "audit" for entry in ledger.entries) == 2 * 45


def after_reply(work: Any) -> Background:
    """Start work as after a reply of this loop."""
    background = Background()
    assert background.start(work)
    return background


async def test_a_loop_that_is_held_up_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home_loop, "BEGINS_S", 0.05)
    places: list[asyncio.AbstractEventLoop] = []

    async def place() -> None:
        places.append(asyncio.get_running_loop())

    background = after_reply(lambda: at_home(place))
    time.sleep(0.5)  # noqa: ASYNC251 - holds up the loop on purpose
    assert places == [portal_loop()]
    assert await background.finish(5)


async def test_what_fails_at_home_fails_here() -> None:
    failures: list[BaseException] = []

    async def fail() -> None:
        raise KeyError("k")

    async def work() -> None:
        try:
            await at_home(fail)
        except KeyError as error:
            failures.append(error)

    assert await after_reply(work).finish(5)
    assert len(failures) == 1


async def test_cancelling_goes_along() -> None:
    begun, cancelled = threading.Event(), threading.Event()

    async def long() -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async def work() -> None:
        async with asyncio.timeout(0.2):
            await at_home(long)

    assert await after_reply(work).finish(5)
    assert begun.is_set()
    assert await asyncio.to_thread(cancelled.wait, 5)


@pytest.mark.parametrize("ended", ["during", "before"])
def test_a_loop_that_ends_is_survived(ended: str) -> None:
    outcomes: list[object] = []
    begun = threading.Event()

    async def call() -> None:
        begun.set()
        outcomes.append(asyncio.get_running_loop())
        await asyncio.sleep(60 if ended == "during" else 0)

    async def work() -> None:
        if ended == "before":
            await asyncio.sleep(0.3)
        try:
            await at_home(call)
        except ConnectionError as error:
            outcomes.append(str(error))

    async def request() -> Background:
        background = after_reply(work)
        if ended == "during":
            await asyncio.to_thread(begun.wait, 5)
        return background

    background = asyncio.run(request())
    assert background.wait(10)
    if ended == "during":
        assert "ended during the call" in str(outcomes[-1])
    else:
        assert outcomes == [portal_loop()]
