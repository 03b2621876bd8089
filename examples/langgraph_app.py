"""Your own LangGraph app with the cascade as a node: answer, then write a note about it.

Run it as it is: python examples/langgraph_app.py
"""

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.graph import END, START, MessagesState, StateGraph

from cascade import Cascade, Tier
from cascade.testing import ScriptedModel

SHOTS: list[AnyMessage] = [
    HumanMessage("What is the opposite of hot?"),
    AIMessage("The opposite of hot is cold."),
    HumanMessage("What is the opposite of clean?"),
    AIMessage("The opposite of clean is dirty."),
]

cascade = Cascade(
    small=Tier("llamacpp:smollm2-135m", max_tokens=12, temperature=0),
    large=ScriptedModel(lambda request: "An answer of the large model"),  # stands in for yours
)


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
