"""`langgraph.json`, read and loaded as `langgraph dev` does it."""

from __future__ import annotations

import importlib.util
import json
from typing import Any

import pytest
from langgraph.graph.state import CompiledStateGraph

import floors

CONFIG: dict[str, Any] = json.loads((floors.ROOT / "langgraph.json").read_text())


@pytest.fixture
def graph() -> Any:
    """The server imports the file by its path and takes the name after the colon."""
    path, name = CONFIG["graphs"]["cascade"].split(":")
    spec = importlib.util.spec_from_file_location("served_graph", floors.ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


def test_the_server_can_describe_the_graph_and_give_it_a_checkpointer(graph: Any) -> None:
    """Studio asks for these when it opens an assistant."""
    assert isinstance(graph, CompiledStateGraph)
    assert (graph.checkpointer, graph.name) == (None, "cascade")
    assert "messages" in graph.get_input_jsonschema()["properties"]
    assert json.dumps(graph.get_output_jsonschema())
    drawn = graph.get_graph(xray=True).to_json()
    assert {"draft", "self_check", "verify", "expert"} <= {node["id"] for node in drawn["nodes"]}
