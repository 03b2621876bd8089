"""A LangGraph server: the graph that `langgraph dev` serves, as langgraph.json at the top names it.

    langgraph dev                                  in the folder of langgraph.json
    python examples/langgraph_server.py            asks the graph once, without a server
    CASCADE_SMALL=ollama:qwen2.5:3b CASCADE_LARGE=openai:gpt-5.1 langgraph dev

`langgraph dev` comes with `pip install "langgraph-cli[inmem]"`. Without these variables both models
answer from a script. The server gives the graph its own checkpointer and store.
"""

import os

from langchain_core.messages import HumanMessage

from cascade import Cascade, Price, Tier
from cascade.testing import ScriptedModel

small = os.environ.get("CASCADE_SMALL") or Tier(
    ScriptedModel("A draft", logprobs=0.4), price=Price(per_hour=0.05)
)
large = os.environ.get("CASCADE_LARGE") or Tier(
    ScriptedModel("An answer of the large model"), price=Price(input=1.25, output=10)
)
cascade = Cascade(small, large, name="cascade")
graph = cascade.graph

if __name__ == "__main__":
    state = graph.invoke({"messages": [HumanMessage("What is the capital of France?")]})
    result = cascade.read(state)
    print(result.answer, f"({result.decision.reason})")
    print(result.ledger.table())
