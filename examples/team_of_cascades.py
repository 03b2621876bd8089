"""A team of agents in one graph: each member is a cascade of its own.

    python examples/team_of_cascades.py

Needs the extra `langchain`. All agents answer from a script here.
"""

from collections.abc import Callable
from typing import Any

from langchain.agents import create_agent
from langchain.tools import tool
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import END, START, MessagesState, StateGraph

from cascade import Cascade, LedgerView, MemoryLedger, Price, Tier
from cascade.integrations import AgentTier


@tool
def look_up(city: str) -> str:
    """How many people live in a city."""
    return {"Canberra": "about 460,000"}.get(city, "not known")


class FakeChat(GenericFakeChatModel):
    """A chat model with a script; in earnest `init_chat_model("openai:gpt-5.1")`."""

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        """A script needs no tools."""
        return self


def says(text: str, city: str | None = None) -> AIMessage:
    """A step of an agent: it looks a city up, or gives its answer."""
    calls = [] if city is None else [{"name": "look_up", "args": {"city": city}, "id": "1"}]
    usage = {"input_tokens": 120, "output_tokens": 20, "total_tokens": 140}
    return AIMessage(text, tool_calls=calls, usage_metadata=usage)


ledger = MemoryLedger()


def agent(name: str, script: list[AIMessage], price: Price) -> Tier:
    """An agent that may look cities up."""
    made = create_agent(FakeChat(messages=iter(script)), [look_up])
    return Tier(AgentTier(made, name=name), price=price)


def member(
    name: str, small: list[AIMessage], large: list[AIMessage], verifier: Callable[[str, str], bool]
) -> Cascade:
    """A cascade of two agents."""
    first = agent("small", small, Price(input=0.15, output=0.6))
    second = agent("large", large, Price(input=1.25, output=10))
    return Cascade(first, second, name=name, verifier=verifier, ledger=ledger)


research = member(
    "research",
    [says("Nobody knows.")],
    [says("", "Canberra"), says("About 460,000 people live in Canberra.")],
    lambda question, answer: any(letter.isdigit() for letter in answer),
)
write = member(
    "write",
    [says("Canberra, home to about 460,000, is Australia's capital.")],
    [says("…")],
    lambda question, answer: len(answer.split()) > 3,
)
builder = StateGraph(MessagesState)
builder.add_node("research", research.graph)
builder.add_node("write", write.graph)
builder.add_edge(START, "research")
builder.add_edge("research", "write")
builder.add_edge("write", END)
state = builder.compile().invoke({"messages": [HumanMessage("A sentence about Canberra, please.")]})
for message in state["messages"][1:]:
    print(f"{message.response_metadata['tier']}: {message.text}")
print(LedgerView(ledger.entries).table())
