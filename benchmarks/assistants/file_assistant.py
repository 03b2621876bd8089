"""An assistant that finds things in the files of a folder, and writes files on request."""

from pathlib import Path
from typing import Any

from langchain.agents import create_agent
from langchain.agents.structured_output import ToolStrategy
from langchain.tools import tool
from langchain_core.language_models import BaseChatModel
from pydantic import BaseModel

SYSTEM_PROMPT = """\
You are an assistant that works on the text files of a folder.
Work in steps: use a tool, read its result, then call Answer with what the result says.

Example: "What colour is the car in garage.txt?"
1. read_file: garage.txt
2. Content of garage.txt: one red car
3. Answer: red"""


class Answer(BaseModel):
    """Give the final answer to the user's question."""

    answer: str


def file_assistant(model: BaseChatModel, folder: str) -> Any:
    """The agent, on one folder."""
    root = Path(folder)

    @tool
    def list_files() -> str:
        """List the files of the folder."""
        names = ", ".join(sorted(path.name for path in root.iterdir()))
        return f"Files: {names}. Next: read one, or call Answer."

    @tool
    def read_file(name: str) -> str:
        """Read a file."""
        path = root / Path(name).name
        if not path.is_file():
            return f"There is no file {name}. Use list_files."
        text = path.read_text(encoding="utf-8")
        return f"Content of {path.name}:\n{text}\nIf this answers the question, call Answer now."

    @tool
    def search(text: str) -> str:
        """Find the lines of all files that contain a text."""
        found = [
            f"{path.name}: {line}"
            for path in sorted(root.iterdir())
            for line in path.read_text(encoding="utf-8").splitlines()
            if text.lower() in line.lower()
        ]
        if not found:
            return f"No file contains {text!r}. Try a shorter text."
        return "Found:\n" + "\n".join(found[:10]) + "\nIf this answers it, call Answer now."

    @tool
    def write_file(name: str, text: str) -> str:
        """Write a text into a file."""
        (root / Path(name).name).write_text(text, encoding="utf-8")
        return f"{name} is written. If all is done, call Answer now."

    return create_agent(
        model,
        tools=[list_files, read_file, search, write_file],
        system_prompt=SYSTEM_PROMPT,
        response_format=ToolStrategy(Answer),
    )
