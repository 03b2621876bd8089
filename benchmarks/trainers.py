"""Whether TRL's own code reads the files of `cascade teach export` (two minutes, network).

    python benchmarks/trainers.py

An environment under .cache has TRL without PyTorch, which reading does not use. A file of each
form is written from a few lessons and loaded with `datasets`; each row is put to
`is_conversational` and `maybe_apply_chat_template`, with a tokenizer that is only a template.
Fails if a row is not read.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import get_args

from cascade import Cascade
from cascade.teaching import Lessons, Terms, open_lessons
from cascade.teaching.exporting import ExportOptions, Form, export
from cascade.testing import ScriptedModel, reply

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ROOT / ".cache" / "trainers" / "bin" / "python"
WANTED = ("trl==1.16.0", "datasets", "transformers", "jinja2")
QUIET = {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}
QUESTIONS = ("How long may boots be sent back?", "Which harbour is deepest?", "Who mends kettles?")

READ = """
import sys
from datasets import load_dataset
from transformers import PreTrainedTokenizerFast
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from trl.data_utils import is_conversational, maybe_apply_chat_template

tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({})))
tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
rows = load_dataset("json", data_files=sys.argv[1], split="train")
assert len(rows) == int(sys.argv[2]), len(rows)
for row in rows:
    assert is_conversational(row), row
    text = maybe_apply_chat_template(row, tokenizer)
    assert "60 days" in text.get("text", text.get("completion", text.get("chosen"))), text
print(len(rows), "rows:", ", ".join(text))
"""


def environment() -> None:
    """Make the environment, where it is not there."""
    if PYTHON.exists():
        return
    uv = str(ROOT / "scripts" / "uv.sh")
    folder = str(PYTHON.parent.parent)
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder], check=True)
    install = [uv, "pip", "install", "--quiet", "--python", str(PYTHON)]
    subprocess.run([*install, *WANTED[1:]], check=True)
    subprocess.run([*install, "--no-deps", WANTED[0]], check=True)


async def write(folder: Path, form: Form) -> Path:
    """A training file of one form."""
    store = open_lessons(f"sqlite:///{folder / form}.db")
    terms = Terms(may_train=True, source="our own model")
    await store.state_terms("scripted:*", terms)
    small = ScriptedModel(lambda _: reply("7 days", probability=0.3), returns_logprobs=True)
    large = ScriptedModel(lambda _: reply("60 days"))
    lessons = Lessons(store, terms={"scripted:*": terms})
    async with Cascade(small, large, threshold=0.8, middleware=[lessons]) as cascade:
        for question in QUESTIONS:
            await cascade.ainvoke(question)
    done = await export(store, folder / f"{form}.jsonl", ExportOptions(form=form, validation=0))
    await store.aclose()
    return done.files["training"]


def main() -> None:
    """Write a file of each form, and let TRL read it."""
    environment()
    with tempfile.TemporaryDirectory() as name:
        for form in get_args(Form):
            path = asyncio.run(write(Path(name), form))
            command = [str(PYTHON), "-c", READ, str(path), str(len(QUESTIONS))]
            print(f"{WANTED[0]}, {form}: ", end="", flush=True)
            subprocess.run(command, check=True, env=os.environ | QUIET)


if __name__ == "__main__":
    main()
