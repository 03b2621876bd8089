"""Threads in a SQLite file, with the ledger in another: killed at any point, gone on with later.

The upstream server's own log is the witness of what was paid for.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from langchain_core.messages import ToolCall
from langgraph.checkpoint.serde import jsonplus
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, StateGraph
from pydantic import BaseModel

from cascade.confidence.p_true import QUESTION
from cascade.ledger.store import Attempt, open_store
from cascade.state import (
    CHECKPOINT_TYPES,
    Assessment,
    CascadeInput,
    CascadeState,
    Completion,
    Decision,
    Draft,
    LedgerEntry,
    Run,
    TokenLogprob,
    Usage,
)
from tests.ledger.store import writing
from tests.servers import replies
from tests.servers.fake import FakeServer

ASKS = """
import asyncio, json, logging, sys
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from cascade import Cascade, Price, Tier
from cascade.ledger.store import open_store
from cascade.result import read_result
from cascade.state import CHECKPOINT_TYPES

logging.basicConfig(level=logging.WARNING)
url, folder, question = sys.argv[1:]
price = Price(input=1, output=2)
tiers = [Tier(f"openai:{n}", base_url=url, api_key="k", price=price) for n in ("small", "large")]

async def main():
    ledger = open_store(f"sqlite:///{folder}/ledger.db")
    cascade = Cascade(*tiers, signals=["p_true"], ledger=ledger)
    async with AsyncSqliteSaver.from_conn_string(f"{folder}/threads.db") as saver:
        saver.serde = JsonPlusSerializer(allowed_msgpack_modules=CHECKPOINT_TYPES)
        graph = cascade.build_graph().compile(checkpointer=saver)
        given = {"messages": [("human", question)]} if question else None
        thread = {"configurable": {"thread_id": "t"}}
        result = read_result(await graph.ainvoke(given, thread, durability="sync"), "small", None)
    await cascade.aclose()
    await ledger.aclose()
    told = {"answer": result.answer, "tier": result.tier, "run_id": result.run_id}
    print(json.dumps(told | {"nodes": [entry.node for entry in result.ledger]}))

asyncio.run(main())
"""

DRAFT = replies.openai_reply("Sydney")
DOUBT = replies.openai_reply("False")
ANSWER = replies.openai_reply("Canberra")
WHOLE = [DRAFT, DOUBT, ANSWER]
CAPITAL = "What is the capital of Australia?"
LISTS = str.maketrans("[]", "()", ",")
"""A checkpoint makes lists of tuples; nothing depends on which of them it is."""
NODES = ["draft", "self_check", "expert"]


def process(server: FakeServer, folder: Path, question: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", ASKS, server.openai_url, str(folder), question],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "NO_PROXY": "127.0.0.1"},
    )


def told(running: subprocess.Popen[str]) -> dict[str, Any]:
    out, complaints = running.communicate(timeout=60)
    assert (running.returncode, complaints) == (0, "")
    read: dict[str, Any] = json.loads(out)
    return read


def asked(server: FakeServer) -> list[str]:
    """The node of each request, in order."""
    names = {"small": "draft", "large": "expert"}
    return [
        "self_check"
        if received.body["messages"][-1]["content"].startswith(QUESTION)
        else names[received.body["model"]]
        for received in server.received
    ]


async def in_ledger(folder: Path) -> tuple[list[LedgerEntry], list[Attempt]]:
    """The calls that ended, and those whose outcome nobody knows."""
    async with open_store(f"sqlite:///{folder}/ledger.db") as ledger:
        calls = [entry for entry in await ledger.query() if entry.model is not None]
        return calls, await ledger.unfinished()


async def kill_when_stuck(
    server: FakeServer, folder: Path, *answers: replies.Reply, question: str = ""
) -> None:
    """Kill a process the moment that the request after these answers has arrived."""
    wanted = len(server.received) + len(answers) + 1
    server.will(*answers, replies.HANG)
    running = process(server, folder, question)
    try:
        for _ in range(6000):
            if len(server.received) == wanted:
                return
            assert running.poll() is None, running.communicate()
            await asyncio.sleep(0.01)
        raise AssertionError(f"{asked(server)}: no {wanted} requests within a minute")
    finally:
        running.send_signal(signal.SIGKILL)
        running.communicate()


@pytest.mark.parametrize("n", range(3), ids=["draft", "self-check", "escalation"])
async def test_a_killed_run_goes_on_and_its_ledger_knows_every_request(
    n: int, tmp_path: Path
) -> None:
    with FakeServer() as server:
        await kill_when_stuck(server, tmp_path, *WHOLE[:n], question=CAPITAL)
        server.will(*WHOLE[n:])
        result = told(process(server, tmp_path))
        assert (result["answer"], result["tier"]) == ("Canberra", "large")
        assert asked(server) == [*NODES[: n + 1], *NODES[n:]]
    calls, unknown = await in_ledger(tmp_path)
    assert [entry.node for entry in calls] == NODES
    assert [attempt.node for attempt in unknown] == [NODES[n]]
    runs = {entry.run_id for entry in calls} | {attempt.run_id for attempt in unknown}
    assert runs == {result["run_id"]}
    assert result["nodes"] == ["draft", "self_check", "verify", "expert"]


async def test_a_run_that_is_killed_at_each_of_its_calls_answers_in_the_end(
    tmp_path: Path,
) -> None:
    with FakeServer() as server:
        await kill_when_stuck(server, tmp_path, question=CAPITAL)
        await kill_when_stuck(server, tmp_path, DRAFT)
        await kill_when_stuck(server, tmp_path, DOUBT)
        server.will(ANSWER)
        assert told(process(server, tmp_path))["answer"] == "Canberra"
        again = told(process(server, tmp_path))  # a finished run is read, not answered again
        assert again["answer"] == "Canberra"
        assert asked(server) == [node for node in NODES for _ in ("killed", "answered")]
    calls, unknown = await in_ledger(tmp_path)
    assert [entry.node for entry in calls] == [attempt.node for attempt in unknown] == NODES


# --- records in the file -------------------------------------------------------------------------

TOKEN = TokenLogprob("a", -0.1, (("a", -0.1), ("b", -2.0)))
COMPLETION = Completion(
    text="Sydney",
    model="served",
    usage=Usage(
        input_tokens=9, output_tokens=2, cached_tokens=3, reasoning_tokens=1, cache_write_tokens=4
    ),
    logprobs=(TOKEN,),
    tool_calls=(ToolCall(name="look", args={"at": 1}, id="1", type="tool_call"),),
    finish_reason="stop",
    thinking="hm",
    latency_ms=1.5,
    busy_ms=0.5,
    cached=True,
    call_logprobs=(TOKEN,),
)
RECORDS: dict[str, Any] = {
    "run": Run("r", "q", tier=1, begun_at=2.5, shadow=True, local_only="answer", asked=("small",)),
    "draft": Draft("small", COMPLETION, stopped="it rambled", example_tokens=3, doubt="a copy"),
    "assessment": Assessment(
        signals={"p_true": 0.2},
        confidence=0.2,
        calibrated=True,
        missing="a signal",
        objection="not JSON",
        p_large=0.9,
        interval=(0.1, 0.3),
        taken=("p_true",),
        withheld=True,
    ),
    "decision": Decision(
        action="escalate",
        reason="doubtful",
        threshold=0.8,
        confidence=0.2,
        calibrated=True,
        tier="large",
        expected_cost_accept_usd=Decimal("0.1"),
        expected_cost_escalate_usd=Decimal("0.000000000000001"),
        once=True,
    ),
    "ledger": [
        writing.entry("r").model_copy(
            update={
                "outcome": "failed",
                "note": "a note",
                "tool_calls": 1,
                "cost_basis": "estimated",
                "attempt_id": "1",
                "assumed_usd": Decimal("0.1"),
                "prompt_hash": "p",
                "answer_hash": "a",
                "large_usd": Decimal("0.2"),
                "loss": 0.5,
            }
        )
    ],
}


def unset(record: Any) -> list[str]:
    """Fields that a sample leaves at their default, so that it would not show them lost."""
    if isinstance(record, BaseModel):
        return [
            name
            for name, field in type(record).model_fields.items()
            if not field.is_required() and getattr(record, name) == field.default
        ]
    if not dataclasses.is_dataclass(record):
        return []
    return [
        field.name
        for field in dataclasses.fields(record)
        if getattr(record, field.name) == field.default
    ]


@pytest.mark.parametrize(
    "record",
    [*RECORDS.values(), *RECORDS["ledger"], COMPLETION, COMPLETION.usage, TOKEN],
    ids=lambda record: type(record).__name__,
)
def test_the_samples_have_every_field_of_their_records(record: Any) -> None:
    assert unset(record) == []


async def test_every_field_of_every_record_comes_back_from_the_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    jsonplus._warned_unregistered_types.clear()

    def keep(state: CascadeState) -> Any:
        del state
        return RECORDS

    async def opened(connection: aiosqlite.Connection) -> Any:
        serde = jsonplus.JsonPlusSerializer(allowed_msgpack_modules=CHECKPOINT_TYPES)
        builder = StateGraph(CascadeState, input_schema=CascadeInput)
        builder.add_node("keep", keep)
        builder.add_edge(START, "keep")
        return builder.compile(checkpointer=AsyncSqliteSaver(connection, serde=serde))

    config: Any = {"configurable": {"thread_id": "t"}}
    async with aiosqlite.connect(tmp_path / "threads.db") as connection:
        await (await opened(connection)).ainvoke({"messages": [("human", "?")]}, config)
    async with aiosqlite.connect(tmp_path / "threads.db") as connection:
        values = (await (await opened(connection)).aget_state(config)).values
    for name, record in RECORDS.items():
        assert repr(values[name]).translate(LISTS) == repr(record).translate(LISTS)
    assert caplog.messages == []
