"""`langgraph.json`, read and loaded as `langgraph dev` does it."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph.state import CompiledStateGraph
from langgraph.store.memory import InMemoryStore

import floors
from cascade.state import CHECKPOINT_TYPES

CONFIG: dict[str, Any] = json.loads((floors.ROOT / "langgraph.json").read_text())


@pytest.fixture
def graph() -> Iterator[Any]:
    """The server imports the file by its path and takes the name after the colon."""
    path, name = CONFIG["graphs"]["cascade"].split(":")
    spec = importlib.util.spec_from_file_location("served_graph", floors.ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["served_graph"] = module
    spec.loader.exec_module(module)
    yield getattr(module, name)
    del sys.modules["served_graph"]


def test_what_the_server_installs_is_there() -> None:
    for dependency in CONFIG["dependencies"]:
        assert (floors.ROOT / dependency / "pyproject.toml").is_file()


def test_the_server_is_told_which_records_its_checkpoints_hold() -> None:
    told = CONFIG["checkpointer"]["serde"]["allowed_msgpack_modules"]
    assert told == [[each.__module__, each.__name__] for each in CHECKPOINT_TYPES]


def test_the_graph_is_compiled_and_brings_no_checkpointer_of_its_own(graph: Any) -> None:
    assert isinstance(graph, CompiledStateGraph)
    assert graph.checkpointer is None
    assert graph.name == "cascade"


def test_the_server_can_describe_the_graph(graph: Any) -> None:
    """Studio asks for these when it opens an assistant."""
    assert json.dumps(graph.get_input_jsonschema())
    assert "messages" in graph.get_input_jsonschema()["properties"]
    assert json.dumps(graph.get_output_jsonschema())
    drawn = graph.get_graph(xray=True).to_json()
    assert {"draft", "self_check", "verify", "expert"} <= {node["id"] for node in drawn["nodes"]}


@pytest.mark.live
async def test_the_server_runs_it_with_its_own_checkpointer_and_store(graph: Any) -> None:
    saver = InMemorySaver(serde=JsonPlusSerializer(allowed_msgpack_modules=CHECKPOINT_TYPES))
    served = graph.copy(update={"checkpointer": saver, "store": InMemoryStore()})
    thread: Any = {"configurable": {"thread_id": "t"}}
    for turn in (1, 2):
        question = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
        state = await served.ainvoke(question, thread)
        assert len(state["messages"]) == 2 * turn
    history = [snapshot async for snapshot in served.aget_state_history(thread)]
    assert len(history) > 2
