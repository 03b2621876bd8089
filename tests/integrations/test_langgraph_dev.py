"""`langgraph dev`, really started, with the graph that `langgraph.json` names."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph_sdk import get_sync_client

import floors
from tests.environments import NoPackagesError, packages
from tests.servers.fake import free_port

pytestmark = [pytest.mark.live, pytest.mark.heavy]

ANSWER = "An answer of the large model"
STARTING_S = 300.0


def asking(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where it listens; its files are in a folder of its own, and it speaks to nobody."""
    try:
        modules = packages("langgraph-cli[inmem]>=0.4.40,<0.5")
    except NoPackagesError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("served")
    shutil.copy(floors.ROOT / "langgraph.json", folder)
    shutil.copytree(floors.ROOT / "examples", folder / "examples")
    port = free_port()
    quiet = {"LANGSMITH_TRACING": "false", "LANGGRAPH_CLI_NO_ANALYTICS": "1"}
    path = os.pathsep.join([str(modules), str(floors.ROOT)])
    command = [sys.executable, "-m", "langgraph_cli", "dev", "--no-browser", "--no-reload"]
    log = folder / "log"
    with log.open("wb") as written:
        server = subprocess.Popen(
            [*command, "--port", str(port)],
            cwd=folder,
            env={**os.environ, **quiet, "PYTHONPATH": path},
            stdout=written,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield listening(server, f"http://127.0.0.1:{port}", log)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait(timeout=30)


def listening(server: subprocess.Popen[bytes], address: str, log: Path) -> str:
    until = time.monotonic() + STARTING_S
    while server.poll() is None and time.monotonic() < until:
        with suppress(httpx.TransportError):
            if httpx.get(f"{address}/ok", timeout=5).is_success:
                return address
        time.sleep(0.2)
    pytest.fail(f"langgraph dev does not listen:\n{log.read_text()}")


def test_a_thread_has_two_turns_and_the_ledger_of_the_last(address: str) -> None:
    with get_sync_client(url=address) as client:
        thread = client.threads.create()["thread_id"]
        for turn in (1, 2):
            question = asking(f"What is the capital of France? ({turn})")
            state: Any = client.runs.wait(thread, "cascade", input=question)
            assert "__error__" not in state, state
            assert len(state["messages"]) == 2 * turn
            assert state["messages"][-1]["content"] == ANSWER
        kept: Any = client.threads.get_state(thread)["values"]
    assert [message["type"] for message in kept["messages"]] == ["human", "ai"] * 2
    nodes = [entry["node"] for entry in kept["run"]["entries"]]
    assert nodes == ["draft", "self_check", "verify", "expert"]


def test_a_stream_shows_no_draft_that_is_rejected(address: str) -> None:
    with get_sync_client(url=address) as client:
        parts = list(
            client.runs.stream(
                None, "cascade", input=asking("Who?"), stream_mode=["messages-tuple", "updates"]
            )
        )
    shown = [part.data[0]["content"] for part in parts if part.event == "messages"]
    assert "".join(shown) == ANSWER
    updates = [node for part in parts if part.event == "updates" for node in part.data]
    assert updates == ["draft", "self_check", "verify", "expert"]


def test_mcp_offers_the_cascade_as_a_tool(address: str) -> None:
    def rpc(method: str, **params: Any) -> Any:
        asked = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        accepts = {"Accept": "application/json, text/event-stream"}
        said = httpx.post(
            f"{address}/mcp/", json=asked, headers=accepts, timeout=60, follow_redirects=True
        )
        assert said.is_success, said.text
        return said.json()["result"]

    (tool,) = [tool for tool in rpc("tools/list")["tools"] if tool["name"] == "cascade"]
    assert "messages" in tool["inputSchema"]["properties"]
    called = rpc("tools/call", name="cascade", arguments=asking("What is the capital of France?"))
    assert not called.get("isError")
    assert ANSWER in str(called["content"])
