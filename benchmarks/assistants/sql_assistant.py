"""An assistant that answers questions about a shop's SQLite database, and changes it on request."""

import sqlite3
from contextlib import closing
from typing import Any

from langchain.agents import create_agent
from langchain.agents.structured_output import ToolStrategy
from langchain.tools import tool
from langchain_core.language_models import BaseChatModel
from pydantic import BaseModel

SYSTEM_PROMPT = """\
You are an assistant that works on a shop's SQLite database.
Tables: products(id, name, category, price, stock), customers(id, name, city), \
orders(id, customer_id, product_id, quantity).
Work in steps: run a query, read its result, then call Answer with what the result says.

Example: "How many suppliers are in Rome?"
1. run_query: SELECT COUNT(*) FROM suppliers WHERE city = 'Rome'
2. Result: [(4,)]
3. Answer: 4"""


class Answer(BaseModel):
    """Give the final answer to the user's question."""

    answer: str


def sql_assistant(model: BaseChatModel, database: str) -> Any:
    """The agent, on one database file."""

    @tool
    def list_tables() -> str:
        """List the tables of the database."""
        with closing(sqlite3.connect(database)) as connection:
            rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            names = ", ".join(name for (name,) in rows)
        return f"Tables: {names}. Next: describe one, or run a query."

    @tool
    def describe_table(table: str) -> str:
        """Show the columns of a table."""
        with closing(sqlite3.connect(database)) as connection:
            rows = connection.execute("SELECT name FROM pragma_table_info(?)", (table,))
            columns = ", ".join(name for (name,) in rows)
        if not columns:
            return f"There is no table {table}. Use list_tables."
        return f"Columns of {table}: {columns}. Next: run a query."

    @tool
    def run_query(query: str) -> str:
        """Run a SQL query on the database and show its rows."""
        try:
            with closing(sqlite3.connect(database)) as connection, connection:
                rows = connection.execute(query).fetchmany(20)
        except sqlite3.Error as error:
            return f"Error: {error}. Correct the query."
        return f"Result: {rows}. If this answers the question, call Answer now."

    return create_agent(
        model,
        tools=[list_tables, describe_table, run_query],
        system_prompt=SYSTEM_PROMPT,
        response_format=ToolStrategy(Answer),
    )
