"""The two models of the agents: recorded, or asked and recorded."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from pathlib import Path

from cascade.models import Chunk, Model, Request, open_model
from cascade.models.base import file_sha256
from cascade.models.recording import (
    Header,
    answer_line,
    header_line,
    read_recording,
    request_key,
)
from cascade.models.replay import ReplayModel
from cascade.state import Completion

FOLDER = Path(__file__).resolve().parent / "recorded"
ALTERNATIVES = 5
"""Log-probs of other tokens that are kept, for the check by words."""


@dataclass(frozen=True)
class Asked:
    """The models of a run."""

    small: Model
    large: Model


class Once(Model):
    """Asks a model each request once, and keeps the answer in a recording.

    With log-probs, whether they are asked for or not: the same request may come from a run that
    wants none and from one that does.
    """

    local = True
    returns_logprobs = True

    def __init__(self, model: Model, path: Path) -> None:
        self._asked, self._path = model, path
        self.provider, self.model = model.provider, Path(model.model).name
        if not path.exists():
            digest = file_sha256(model.weights_path) if model.weights_path else None
            path.write_text(header_line(Header(model=self.name, weights_sha256=digest)))
        self._known = {key: given[0] for key, given in read_recording(path).answers.items()}

    async def _complete(self, request: Request) -> Completion:
        key = request_key(request)
        if key not in self._known:
            fuller = replace(request, logprobs=True, top_logprobs=ALTERNATIVES)
            # llama.cpp names the whole path of its file.
            answer = replace(await self._asked.complete(fuller), model=self.model)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(answer_line(request, answer))
            self._known[key] = answer
        return self._known[key]

    async def _stream(self, request: Request) -> AsyncGenerator[Chunk]:
        answer = await self._complete(request)
        yield Chunk(answer.text)
        yield Chunk(completion=answer)


def recorded(folder: Path = FOLDER) -> Asked:
    """The models as they were recorded."""
    return Asked(ReplayModel(folder / "small.jsonl"), ReplayModel(folder / "large.jsonl"))


def asked_live(large: Path, folder: Path = FOLDER) -> Asked:
    """The models themselves, in this process, one request at a time."""
    folder.mkdir(exist_ok=True)
    options = {"n_ctx": 4096, "n_parallel": 1}
    small_model = open_model("llamacpp:smollm2-135m", options=options)
    large_model = open_model(f"llamacpp:{large}", options=options)
    return Asked(
        Once(small_model, folder / "small.jsonl"), Once(large_model, folder / "large.jsonl")
    )
