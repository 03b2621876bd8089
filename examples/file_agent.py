"""An agent that reads and writes files, as LangChain's documentation would write it.

Run it as it is: python examples/file_agent.py
Only the model line knows of a cascade. The small model runs in this process; the large one is
scripted and stands in for yours. `benchmarks/assistants` has the same agent on 15 tasks.
"""

import tempfile
from pathlib import Path

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


def large(request: Request) -> Completion:
    """Reads, writes, then answers."""
    name, args = "read_file", {"name": "budget.txt"}
    if "Rent: 900" in request.messages[-1].text:
        name, args = "write_file", {"name": "rent.txt", "text": "900"}
    elif request.messages[-1].text.endswith("is written."):
        name, args = "Answer", {"answer": "The rent is in rent.txt."}
    return reply("", tool_calls=[ToolCall(name=name, args=args, id="1", type="tool_call")])


ledger = MemoryLedger()
model = Cascade(
    Tier("llamacpp:smollm2-135m", price=Price(per_hour=0.05), max_tokens=60, temperature=0),
    Tier(ScriptedModel(large), price=Price(input=1.25, output=10)),
    ledger=ledger,
).as_chat_model()

agent = create_agent(
    model,  # was: "openai:…"
    tools=[read_file, write_file],
    system_prompt="You work on the text files of a folder.",
    response_format=ToolStrategy(Answer),
)
asked = {"role": "user", "content": "Write the rent of budget.txt into rent.txt."}
for message in agent.invoke({"messages": [asked]})["messages"]:
    if message.type == "ai":
        said = message.response_metadata
        print(f"{said['tier']}: {message.tool_calls[0]['args']} ({said['reason']})")
print(sorted(path.name for path in folder.iterdir()))
print(LedgerView(ledger.entries).table())
