"""An agent of LangChain's with a cascade as its model: only the model line differs.

Run it as it is: python examples/langchain_agent.py
"""

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, ToolCall

from cascade import Cascade, Price, Tier
from cascade.models import Request
from cascade.state import Completion
from cascade.testing import ScriptedModel, reply

PEOPLE = {"Canberra": 460_000, "Sydney": 5_300_000}


def population(city: str) -> int:
    """How many people live in a city."""
    return PEOPLE[city]


def answers(request: Request) -> Completion:
    """A large model, which stands in for yours: it calls the tool and words its answer."""
    last = request.messages[-1]
    if last.type == "tool":
        return reply(f"{int(last.text):,} people live in Canberra.")
    call = ToolCall(name="population", args={"city": "Canberra"}, id="1", type="tool_call")
    return reply("", tool_calls=[call])


cascade = Cascade(
    small=Tier("llamacpp:smollm2-135m", max_tokens=24, temperature=0),
    large=Tier(ScriptedModel(answers), price=Price(input=1.25, output=10)),
)
agent = create_agent(cascade.as_chat_model(), [population])  # was: create_agent("openai:…", …)

state = agent.invoke({"messages": [HumanMessage("How many people live in Canberra?")]})
for message in state["messages"]:
    if isinstance(message, AIMessage):
        said = message.response_metadata
        print(f"{said['tier']}: {message.text or message.tool_calls[0]['name']} ({said['reason']})")
