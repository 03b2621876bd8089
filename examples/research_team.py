"""A research team of three agents on one graph: what each of them saved, and all together.

    python examples/research_team.py
    python examples/research_team.py --live --small ollama:qwen2.5:3b --large openai:gpt-5.1

Needs: pip install agent-cascade. Offline both models are scripted: the small one is good at notes,
fair at writing and lost at planning. With a ledger on disk, `cascade report` has the same by agent.
"""

from _live import yours
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage
from langgraph.graph import END, START, MessagesState, StateGraph

from cascade import Cascade, LedgerView, MemoryLedger, Price, Tier
from cascade.models import Request
from cascade.state import Completion
from cascade.testing import ScriptedModel, reply

TEAM = {
    "planner": "Break the question into two things to find out.",
    "researcher": "Note in two sentences what is known about each.",
    "writer": "Answer the question in one sentence, from the notes.",
}
SURE = {"planner": 0.55, "researcher": 0.93, "writer": 0.86}
SAYS = {
    "planner": "1. How far light travels in a year. 2. How far the nearest star is.",
    "researcher": "Light travels 9.46 trillion km a year. Proxima Centauri is 4.24 years away.",
    "writer": "The light of the nearest star is on its way for a little more than four years.",
}


def says(request: Request) -> Completion:
    """Stands in for both models: they say the same, and the small one how sure it is."""
    member = next(name for name, task in TEAM.items() if task in request.messages[0].text)
    return reply(SAYS[member], probability=SURE[member], input_tokens=120)


small, large = yours(
    Tier(
        ScriptedModel(says, returns_logprobs=True),
        price=Price(input=0.02, output=0.06),
        max_tokens=200,  # a small model may talk on
    ),
    Tier(ScriptedModel(says), price=Price(input=1.25, output=10)),
)
ledgers = {name: MemoryLedger() for name in TEAM}


def agent(name: str) -> StateGraph[MessagesState]:
    """One member as a graph, with a cascade of its own: it may have other models and signals."""
    cascade = Cascade(small, large, ledger=ledgers[name], tags={"agent": name}, name=name)
    model = cascade.as_chat_model()

    def answer(state: MessagesState) -> MessagesState:
        said: list[AnyMessage] = [SystemMessage(TEAM[name]), *state["messages"]]
        return {"messages": [model.invoke(said)]}

    return StateGraph(MessagesState).add_node(name, answer).add_edge(START, name)


builder = StateGraph(MessagesState).add_sequence([(n, agent(n).compile()) for n in TEAM])
team = builder.add_edge(START, "planner").add_edge("writer", END).compile()
question = "How old is the light of the nearest star when we see it?"
answers = team.invoke({"messages": [HumanMessage(question)]})["messages"][1:]
for name, message in zip(TEAM, answers, strict=True):
    assert isinstance(message, AIMessage)
    view = LedgerView(ledgers[name].entries)
    saved = "?" if view.saved_usd is None else f"{view.saved_usd:+.6f} dollars"
    print(f"{name:10} {message.response_metadata['tier']:6} saved {saved}\n   {message.text}")
print(LedgerView(entry for ledger in ledgers.values() for entry in ledger.entries).table())
