"""An agent with files: it reads and writes them, and only the model line knows of a cascade.

    python examples/file_agent.py
    python examples/file_agent.py --live --small ollama:qwen2.5:3b --large openai:gpt-5.1

Needs: pip install "agent-cascade[langchain]". A file is
written by the large model's word alone, unless a draft is very sure. Offline both are scripted.
"""

import tempfile
from pathlib import Path

from _live import yours
from langchain.agents import create_agent
from langchain.agents.structured_output import ToolStrategy
from langchain.tools import tool
from langchain_core.messages import ToolCall
from pydantic import BaseModel

from cascade import Cascade, LedgerView, MemoryLedger, Price, Tier
from cascade.state import Completion
from cascade.testing import ScriptedModel, reply

folder = Path(tempfile.mkdtemp())
(folder / "budget.txt").write_text("Rent: 900\nFood: 310\n", encoding="utf-8")


@tool
def read_file(name: str) -> str:
    """Read a file."""
    path = folder / Path(name).name
    return path.read_text(encoding="utf-8") if path.is_file() else f"There is no file {name}."


@tool
def write_file(name: str, text: str) -> str:
    """Write a text into a file."""
    (folder / Path(name).name).write_text(text, encoding="utf-8")
    return f"{name} is written."


class Answer(BaseModel):
    """Give the final answer to the user's question."""

    answer: str


def calls(called: str, sure: float, **args: str) -> Completion:
    """A step of a model: it calls a tool, and says how sure it is."""
    call = ToolCall(name=called, args=args, id="1", type="tool_call")
    return reply("", tool_calls=[call], call_probability=sure, input_tokens=180, output_tokens=25)


write = calls("write_file", 0.85, name="rent.txt", text="900")
drafts = [calls("read_file", 0.97, name="budget.txt"), write, calls("Answer", 0.9, answer="Done.")]
small, large = yours(
    Tier(ScriptedModel(drafts), price=Price(input=0.02, output=0.06)),
    Tier(ScriptedModel([write]), price=Price(input=1.25, output=10)),
)
ledger = MemoryLedger()
agent = create_agent(
    Cascade(
        small, large, tool_risks={"write_file": "write"}, ledger=ledger
    ).as_chat_model(),  # was: "openai:…"
    tools=[read_file, write_file],
    system_prompt="You work on the text files of a folder.",
    response_format=ToolStrategy(Answer),
)
asked = {"role": "user", "content": "Write the rent of budget.txt into rent.txt."}
for message in agent.invoke({"messages": [asked]})["messages"]:
    if message.type == "ai":
        said, step = message.response_metadata, [call["args"] for call in message.tool_calls]
        print(f"{said['tier']}: {step or message.text} ({said['reason']})")
print({path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()})
print(LedgerView(ledger.entries).table())
