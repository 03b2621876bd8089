"""A coding agent that writes files: each attempt has a temporary folder of its own.

    python examples/coding_agent.py

Needs the extra `langchain`. Both agents answer from a script here.
"""

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from langchain.agents import create_agent
from langchain.tools import tool
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage

from cascade import Cascade, Price, Tier
from cascade.integrations import AgentTier

TESTS = "from work import median; assert median([3, 1, 2]) == 2 and median([1, 2]) == 1.5"


class FakeChat(GenericFakeChatModel):
    """A chat model with a script; in earnest `init_chat_model("openai:gpt-5.1")`."""

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        """A script needs no tools."""
        return self


def coder(code: str) -> Any:
    """Makes an agent for each attempt; what it has written is gone when the attempt is over."""

    @asynccontextmanager
    async def fresh() -> AsyncIterator[Any]:
        with TemporaryDirectory() as folder:

            @tool(extras={"risk": "write"})
            def write_file(text: str) -> str:
                """Write work.py."""
                (Path(folder) / "work.py").write_text(text)
                return "written"

            call = {"name": "write_file", "args": {"text": code}, "id": "1"}
            usage = {"input_tokens": 400, "output_tokens": 60, "total_tokens": 460}
            writes = AIMessage("", tool_calls=[call], usage_metadata=usage)
            script = iter([writes, AIMessage(code, usage_metadata=usage)])
            yield create_agent(FakeChat(messages=script), [write_file])

    return fresh


def passes(question: str, answer: str) -> bool:
    """The tests pass on the code that an attempt gives; untrusted code belongs into a container."""
    with TemporaryDirectory() as folder:
        (Path(folder) / "work.py").write_text(answer)
        command = [sys.executable, "-c", TESTS]
        done = subprocess.run(command, cwd=folder, capture_output=True, check=False)  # noqa: S603
        return done.returncode == 0


SIMPLE = "def median(numbers):\n    return sorted(numbers)[len(numbers) // 2]\n"
RIGHT = "from statistics import median\n"
cascade = Cascade(
    Tier(AgentTier(coder(SIMPLE), name="small", fresh=True), price=Price(input=0.15, output=0.6)),
    Tier(AgentTier(coder(RIGHT), name="large", fresh=True), price=Price(input=1.25, output=10)),
    verifier=passes,
)
result = cascade.invoke("Write work.py with median(numbers).")
print(f"{result.tier} ({result.decision.reason}):\n{result.answer}")
print(result.ledger.table())
