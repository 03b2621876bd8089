"""A SQL agent: a small one tries the task, a test looks at its query, a large one takes over.

    python examples/sql_agent.py

Needs the extra `langchain`. Both agents answer from a script here.
"""

import sqlite3
from contextlib import closing
from typing import Any

from langchain.agents import create_agent
from langchain.tools import tool
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage

from cascade import Cascade, Price, Tier
from cascade.integrations import AgentTier

database = sqlite3.connect(":memory:", check_same_thread=False)
database.executescript("""
CREATE TABLE sales (product TEXT, price REAL, number INTEGER);
INSERT INTO sales VALUES ('Lamp', 24.5, 4), ('Chair', 80, 1), ('Lamp', 24.5, 6), ('Desk', 199, 2);
""")


@tool
def run_query(query: str) -> str:
    """Run a SQL query on the database and show its rows."""
    try:
        return str(database.execute(query).fetchall())
    except sqlite3.Error as error:
        return f"Error: {error}. Correct the query."


class FakeChat(GenericFakeChatModel):
    """A chat model with a script; in earnest `init_chat_model("openai:gpt-5.1")`."""

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        """A script needs no tools."""
        return self


def says(text: str, query: str | None = None) -> AIMessage:
    """A step of an agent: it runs a query, or gives its answer."""
    calls = [] if query is None else [{"name": "run_query", "args": {"query": query}, "id": "1"}]
    usage = {"input_tokens": 150, "output_tokens": 25, "total_tokens": 175}
    return AIMessage(text, tool_calls=calls, usage_metadata=usage)


def agent(*script: AIMessage) -> Any:
    """A SQL agent whose answer is a query."""
    prompt = "Find the query for sales(product, price, number). Answer with the query alone."
    return create_agent(FakeChat(messages=iter(script)), [run_query], system_prompt=prompt)


def passes(question: str, answer: str) -> bool:
    """The query gives the right rows of a small table; one that is no SQL raises, and escalates."""
    with closing(sqlite3.connect(":memory:")) as table:
        table.execute("CREATE TABLE sales (product TEXT, price REAL, number INTEGER)")
        rows = [("A", 2, 3), ("B", 5, 1), ("A", 2, 1)]
        table.executemany("INSERT INTO sales VALUES (?, ?, ?)", rows)
        return table.execute(answer).fetchall() == [("A", 8.0), ("B", 5.0)]


WRONG = "SELECT product, price * number FROM sales"
RIGHT = "SELECT product, sum(price * number) FROM sales GROUP BY product ORDER BY 2 DESC"
small = AgentTier(agent(says("", WRONG), says(WRONG)), name="small")
large = AgentTier(agent(says("", RIGHT), says(RIGHT)), name="large")
cascade = Cascade(
    Tier(small, price=Price(input=0.15, output=0.6)),
    Tier(large, price=Price(input=1.25, output=10)),
    verifier=passes,
)
result = cascade.invoke("Which product has the largest turnover? List all, the largest first.")
print(f"{result.tier}: {result.answer} ({result.decision.reason})")
print(database.execute(result.answer).fetchall())
print(result.ledger.table())
