"""A process is killed in the middle of a run, and another one goes on from the SQLite file.

What was paid for is not paid again: the upstream server's own log is the witness.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cascade.confidence.p_true import QUESTION
from tests.servers import replies
from tests.servers.obliging import ObligingServer

ASKS = """
import sys
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, MessagesState, StateGraph
from cascade import Cascade, Tier
from cascade.state import CHECKPOINT_TYPES

url, path, question = sys.argv[1:]
tiers = [Tier(f"openai:{name}", base_url=url, api_key="k") for name in ("small", "large")]
builder = StateGraph(MessagesState)
builder.add_node("cascade", Cascade(*tiers, signals=["p_true"]).graph)
builder.add_edge(START, "cascade")
with SqliteSaver.from_conn_string(path) as saver:
    saver.serde = JsonPlusSerializer(allowed_msgpack_modules=CHECKPOINT_TYPES)
    graph = builder.compile(checkpointer=saver)
    given = {"messages": [("human", question)]} if question else None
    state = graph.invoke(given, {"configurable": {"thread_id": "t"}})
    print(state["messages"][-1].text)
"""


def process(server: ObligingServer, path: Path, question: str) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", ASKS, server.openai_url, str(path), question]
    environment = {**os.environ, "NO_PROXY": "127.0.0.1"}
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment)


def said(server: ObligingServer) -> list[str]:
    """What each request was for, in order."""
    return [
        "check"
        if received.body["messages"][-1]["content"].startswith(QUESTION)
        else received.body["model"]
        for received in server.received
    ]


def wait_for(server: ObligingServer, n: int) -> None:
    end = time.monotonic() + 60
    while len(server.received) < n:
        assert time.monotonic() < end, f"{said(server)}: no {n} requests within a minute"
        time.sleep(0.01)


DRAFT = replies.openai_reply("Sydney")
DOUBT = replies.openai_reply("False")
ANSWER = replies.openai_reply("Canberra")


@pytest.mark.parametrize(
    ("before", "after", "asked"),
    [
        ([], [DRAFT, DOUBT, ANSWER], ["small", "small", "check", "large"]),
        ([DRAFT], [DOUBT, ANSWER], ["small", "check", "check", "large"]),
        ([DRAFT, DOUBT], [ANSWER], ["small", "check", "large", "large"]),
    ],
    ids=["during the draft", "during the self-check", "during the escalation"],
)
def test_a_run_goes_on_after_a_kill_and_pays_for_nothing_twice(
    tmp_path: Path,
    before: list[replies.Reply],
    after: list[replies.Reply],
    asked: list[str],
) -> None:
    path = tmp_path / "threads.db"
    with ObligingServer() as server:
        server.will(*before, replies.HANG)
        killed = process(server, path, "What is the capital of Australia?")
        wait_for(server, len(before) + 1)
        time.sleep(0.5)  # LangGraph writes a checkpoint while the next node works
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        server.will(*after)
        printed, _ = process(server, path, "").communicate(timeout=60)
        assert printed.strip() == "Canberra"
        assert said(server) == asked
