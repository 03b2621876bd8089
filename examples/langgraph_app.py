"""A LangGraph app of your own with the cascade as a node, and a checkpointer that keeps its runs.

python examples/langgraph_app.py
"""

from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph

from cascade import Cascade, LedgerView, MemoryLedger, Price, Tier
from cascade.testing import ScriptedModel, reply

DRAFTS = {
    "What is the opposite of left?": reply("Right.", probability=0.96),
    "What is the opposite of generous?": reply("Genius.", probability=0.4),
}
small = Tier(ScriptedModel(DRAFTS), price=Price(input=0.02, output=0.06))
large = Tier(ScriptedModel("Mean."), price=Price(input=1.25, output=10))
ledger = MemoryLedger()
cascade = Cascade(small, large, ledger=ledger)


def note(state: MessagesState) -> dict[str, list[AIMessage]]:
    answer = state["messages"][-1]
    tier = answer.response_metadata["tier"]
    return {"messages": [AIMessage(f"{answer.text} was said by the {tier} model")]}


builder = StateGraph(MessagesState)
builder.add_node("answer", cascade.graph)  # the cascade is a compiled graph: a node of yours
builder.add_node("note", note)
builder.add_edge(START, "answer")
builder.add_edge("answer", "note")
builder.add_edge("note", END)
app = builder.compile(checkpointer=InMemorySaver())

for thread, question in enumerate(DRAFTS):
    state = app.invoke(
        {"messages": [HumanMessage(question)]},
        {"configurable": {"thread_id": str(thread)}},
        durability="sync",  # a process that is killed pays for no draft twice
    )
    print(state["messages"][-1].text)
print(LedgerView(ledger.entries).table())
