"""An agent that asks a SQLite database, as LangChain's documentation would write it.

Run it as it is: python examples/sql_agent.py
Only the model line knows of a cascade. The small model runs in this process; the large one is
scripted and stands in for yours. `benchmarks/assistants` has the same agent on 15 tasks.
"""

import sqlite3

from langchain.agents import create_agent
from langchain.agents.structured_output import ToolStrategy
from langchain.tools import tool
from langchain_core.messages import ToolCall
from pydantic import BaseModel

from cascade import Cascade, Price, Tier
from cascade.ledger import LedgerView, MemoryLedger
from cascade.models import Request
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


def large(request: Request) -> Completion:
    """Queries, then answers with what the query found."""
    last = request.messages[-1]
    name, args = "run_query", {"query": "SELECT price FROM products WHERE name = 'Lamp'"}
    if last.type == "tool" and last.text.startswith("Result"):
        name, args = "Answer", {"answer": f"The price of the Lamp: {last.text}"}
    return reply("", tool_calls=[ToolCall(name=name, args=args, id="1", type="tool_call")])


ledger = MemoryLedger()
model = Cascade(
    Tier("llamacpp:smollm2-135m", price=Price(per_hour=0.05), max_tokens=60, temperature=0),
    Tier(ScriptedModel(large), price=Price(input=1.25, output=10)),
    ledger=ledger,
).as_chat_model()

agent = create_agent(
    model,  # was: "openai:…"
    tools=[run_query],
    system_prompt="You answer questions about a table products(name, price).",
    response_format=ToolStrategy(Answer),
)
state = agent.invoke({"messages": [{"role": "user", "content": "What is the price of the Lamp?"}]})
for message in state["messages"]:
    if message.type == "ai":
        said = message.response_metadata
        print(f"{said['tier']}: {message.tool_calls[0]['args']} ({said['reason']})")
print(state["structured_response"].answer)
print(LedgerView(ledger.entries).table())
