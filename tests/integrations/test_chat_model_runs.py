"""What others see of a call (callbacks, traces, tags), and many calls at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler, UsageMetadataCallbackHandler
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler

from cascade import Cascade, Tier
from cascade.ledger import MemoryLedger
from cascade.ledger.store import open_store
from cascade.models import Chunk
from cascade.models.openai import OpenAIModel
from cascade.testing import ScriptedModel, reply
from tests.servers import replies
from tests.servers.obliging import ObligingServer

DRAFT, LARGE = "It is Sydney", "It is Canberra"


def cascade(probability: float = 0.3, **options: Any) -> Cascade:
    small = ScriptedModel([reply(DRAFT, probability=probability)], name="little")
    return Cascade(small, ScriptedModel([LARGE], name="big"), **options)


def fake(text: str, tokens: int = 2) -> GenericFakeChatModel:
    """A LangChain model, which reports its calls to callbacks itself."""
    usage = {"input_tokens": 5, "output_tokens": tokens, "total_tokens": 5 + tokens}

    def answers() -> Iterator[AIMessage]:
        while True:
            yield AIMessage(
                text, usage_metadata=usage, response_metadata={"model_name": text.lower()}
            )

    return GenericFakeChatModel(messages=answers())


class Watching(BaseCallbackHandler):
    """Counts the model runs that it is told of, and what it is shown."""

    def __init__(self) -> None:
        self.begun = self.ended = 0
        self.shown: list[str] = []

    def on_chat_model_start(self, *_: Any, **__: Any) -> None:
        self.begun += 1

    def on_llm_new_token(self, token: Any, **_: Any) -> None:
        self.shown.append(token)

    def on_llm_end(self, *_: Any, **__: Any) -> None:
        self.ended += 1


# --- callbacks


@pytest.mark.parametrize("kind", ["scripted", "langchain"])
async def test_a_call_is_one_run_of_a_model_to_whoever_counts(kind: str) -> None:
    pair = Cascade(fake(DRAFT), fake(LARGE)) if kind == "langchain" else cascade()
    model = pair.as_chat_model()
    for ask in (model.invoke, model.ainvoke):
        watching, usage = Watching(), UsageMetadataCallbackHandler()
        answer: Any = ask("?", config={"callbacks": [watching, usage]})
        message = await answer if asyncio.iscoroutine(answer) else answer
        assert (watching.begun, watching.ended) == (1, 1)
        (counted,) = usage.usage_metadata.values()
        assert counted["input_tokens"] == message.usage_metadata["input_tokens"]


async def test_a_rejected_draft_of_a_langchain_model_is_shown_to_no_callback() -> None:
    model = Cascade(fake(DRAFT), fake(LARGE)).as_chat_model()
    watching = Watching()
    async for _ in model.astream("?", config={"callbacks": [watching]}):
        pass
    assert "".join(watching.shown) == LARGE
    events = [event async for event in model.astream_events("?", version="v2")]
    tokens = [event["data"]["chunk"].text for event in events if "stream" in event["event"]]
    assert "".join(tokens) == LARGE


@pytest.mark.parametrize("kind", ["scripted", "langchain"])
def test_a_tracer_sees_the_calls_of_the_tiers_below_the_call_of_the_cascade(kind: str) -> None:
    pair = Cascade(fake(DRAFT), fake(LARGE)) if kind == "langchain" else cascade()
    collector = RunCollectorCallbackHandler()
    pair.as_chat_model().invoke("?", config={"callbacks": [collector]})
    (root,) = collector.traced_runs
    assert root.run_type == "llm"
    (graph,) = root.child_runs
    assert graph.run_type == "chain"
    models = [
        run.extra["metadata"]["cascade_node"]
        for node in graph.child_runs
        for run in node.child_runs
        if run.run_type == "llm"
    ]
    assert models[0] == "draft"
    assert models[-1] == "expert"


async def test_tags_of_a_run_are_those_of_its_ledger_entries(tmp_path: Path) -> None:
    async with open_store(f"sqlite:///{tmp_path}/ledger.db") as store:
        model = cascade(ledger=store, tags={"app": "a"}).as_chat_model()
        await model.ainvoke("?", config={"metadata": {"ledger_tags": {"user": "42"}}})
        tags = [stored.tags async for stored in store.stored()]
    assert tags == [{"app": "a", "user": "42"}] * 4


# --- many at once


async def test_two_hundred_calls_at_once_get_their_own_answers() -> None:
    def large(request: Any) -> Any:
        return f"large {request.messages[-1].text}"

    store = MemoryLedger()

    def unsure(request: Any) -> Any:
        number = int(request.messages[-1].text)
        return reply(f"draft {number}", probability=0.9 if number % 2 else 0.3)

    small = ScriptedModel(unsure, returns_logprobs=True, delay_s=0.01)
    model = Cascade(small, ScriptedModel(large), ledger=store).as_chat_model()
    before = asyncio.all_tasks()
    messages = await asyncio.gather(*(model.ainvoke(str(n)) for n in range(200)))
    assert [message.text for message in messages] == [
        f"{'draft' if n % 2 else 'large'} {n}" for n in range(200)
    ]
    runs = {message.response_metadata["run_id"] for message in messages}
    assert len(runs) == 200
    assert {entry.run_id for entry in store.entries} == runs
    assert asyncio.all_tasks() == before


async def test_calls_with_their_own_tools_at_once_do_not_mix_them_up() -> None:
    small = ScriptedModel([reply("fine", probability=0.9)], delay_s=0.001)
    model = Cascade(small, ScriptedModel("x")).as_chat_model()

    async def ask(n: int) -> None:
        tool = {"name": f"tool_{n % 5}", "description": "", "parameters": {"type": "object"}}
        await model.bind_tools([tool]).ainvoke(str(n))

    await asyncio.gather(*(ask(n) for n in range(50)))
    for request in small.requests:
        (tool,) = request.tools
        assert tool["function"]["name"] == f"tool_{int(request.messages[-1].text) % 5}"
    assert len(model.cascade._variants) == 5


async def test_a_synchronous_call_inside_a_running_loop_is_answered() -> None:
    model = cascade().as_chat_model()
    assert model.invoke("?").text == LARGE
    assert "".join(chunk.text for chunk in model.stream("?")) == LARGE


def test_two_event_loops_share_one_model(obliging: ObligingServer) -> None:
    tiers = [
        Tier(f"openai:{name}", base_url=obliging.openai_url, api_key="k")
        for name in ("small", "large")
    ]
    pair = Cascade(*tiers)
    model = pair.as_chat_model()
    answers: list[str] = []

    async def ask() -> None:
        messages = await asyncio.gather(*(model.ainvoke("hello") for _ in range(10)))
        answers.extend(message.text for message in messages)

    threads = [threading.Thread(target=asyncio.run, args=(ask(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 20
    assert len(set(answers)) == 1
    asyncio.run(pair.aclose())


# --- cancellation


@pytest.mark.parametrize("streams", [False, True])
async def test_a_call_that_is_cancelled_stops_the_request_and_is_in_the_ledger(
    obliging: ObligingServer, *, streams: bool
) -> None:
    obliging.will(replies.HANG)
    store = MemoryLedger()
    large = OpenAIModel("large", base_url=obliging.openai_url, api_key="k")
    small = ScriptedModel([reply(DRAFT, probability=0.3)])
    pair = Cascade(small, large, ledger=store)
    model = pair.as_chat_model()

    async def read() -> None:
        if streams:
            async for _ in model.astream("?"):
                pass
        else:
            await model.ainvoke("?")

    task = asyncio.create_task(read())
    await obliging.has_received()
    loop = asyncio.get_running_loop()
    begun = loop.time()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gone = await asyncio.to_thread(obliging.last.left.wait, 1.0)
    assert gone
    assert loop.time() - begun < 0.1
    assert [entry.outcome for entry in store.entries if entry.node == "expert"] == ["cancelled"]
    await pair.aclose()


async def test_a_stream_that_is_closed_early_stops_the_model() -> None:
    stopped = asyncio.Event()

    class Endless(ScriptedModel):
        async def _stream(self, request: Any) -> Any:
            try:
                while True:
                    yield Chunk("word ")
                    await asyncio.sleep(0.001)
            finally:
                stopped.set()

    stream: Any = Cascade(tiers=[Endless("x")]).as_chat_model().astream("?")
    assert (await anext(stream)).text == "word "
    await stream.aclose()
    await asyncio.wait_for(stopped.wait(), 1)
