"""The graph that `langgraph dev` serves: langgraph.json at the top names it.

`graph` is a cascade as it comes out of `Cascade`; the server gives it its own checkpointer and
store. Put your models in. Run it as it is: python examples/langgraph_server.py
"""

from langchain_core.messages import HumanMessage

from cascade import Cascade, Tier
from cascade.testing import ScriptedModel

cascade = Cascade(
    small=Tier("llamacpp:smollm2-135m", max_tokens=24, temperature=0),
    large=ScriptedModel(["An answer of the large model"]),  # stands in for yours
    name="cascade",
)
graph = cascade.graph

if __name__ == "__main__":
    state = graph.invoke({"messages": [HumanMessage("What is the capital of France?")]})
    print(state["messages"][-1].text)
    print(state["decision"].reason)
