"""A SQL agent of LangChain's: only the line with the model knows of a cascade.

    python examples/sql_agent.py

Needs the extra `langchain`. Both models answer from a script here.
"""

import sqlite3

from langchain.agents import create_agent
from langchain.agents.structured_output import ToolStrategy
from langchain.tools import tool
from langchain_core.messages import ToolCall
from pydantic import BaseModel

from cascade import Cascade, LedgerView, MemoryLedger, Price, Tier
from cascade.state import Completion
from cascade.testing import ScriptedModel, reply

database = sqlite3.connect(":memory:", check_same_thread=False)
database.executescript("""
CREATE TABLE products (name TEXT, price REAL);
INSERT INTO products VALUES ('Lamp', 24.5), ('Chair', 80), ('Desk', 199);
""")


@tool
def run_query(query: str) -> str:
    """Run a SQL query on the database and show its rows."""
    try:
        return f"Result: {database.execute(query).fetchall()}"
    except sqlite3.Error as error:
        return f"Error: {error}. Correct the query."


class Answer(BaseModel):
    """Give the final answer to the user's question."""

    answer: str


def calls(called: str, sure: float, **args: str) -> Completion:
    """A step of a model: it calls a tool, and says how sure it is."""
    call = ToolCall(name=called, args=args, id="1", type="tool_call")
    return reply("", tool_calls=[call], call_probability=sure, input_tokens=150, output_tokens=25)


drafts = [
    calls("run_query", 0.91, query="SELECT price FROM products WHERE name = 'Lamp'"),
    calls("Answer", 0.6, answer="The Lamp costs 245 dollars."),
]
answers = [calls("Answer", 0.99, answer="The Lamp costs 24.50 dollars.")]
small = Tier(ScriptedModel(drafts), price=Price(input=0.02, output=0.06))
large = Tier(ScriptedModel(answers), price=Price(input=1.25, output=10))
ledger = MemoryLedger()
agent = create_agent(
    Cascade(small, large, ledger=ledger).as_chat_model(),  # was: "openai:…"
    tools=[run_query],
    system_prompt="You answer questions about a table products(name, price).",
    response_format=ToolStrategy(Answer),
)
state = agent.invoke({"messages": [{"role": "user", "content": "What is the price of the Lamp?"}]})
for message in state["messages"]:
    if message.type == "ai":
        said, step = message.response_metadata, [call["args"] for call in message.tool_calls]
        print(f"{said['tier']}: {step or message.text} ({said['reason']})")
print(state["structured_response"].answer)
print(LedgerView(ledger.entries).table())
