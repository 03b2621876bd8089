"""What tells a wrong tool call from a right one: all its tokens, or its name and values?

    python benchmarks/tool_scores.py

The embedded model is shown three calls of a tool and asked for one more, with the name of one of
60 cities; a call is right where it has the city's name as it was given. llama.cpp's own server
parses the calls and sends the log-probs. Both scores are geometric mean token probabilities.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from cascade.confidence.metrics import auroc
from cascade.models import Request
from cascade.models.called import call_logprobs
from cascade.models.llamacpp import find_weights
from cascade.models.openai import OpenAIModel
from cascade.models.openai_wire import Answer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.servers.llamacpp import HERMES, LlamaCppServer

SHOWN = ("Rome", "Oslo", "Lima")
CITIES = (
    *("Paris", "London", "Berlin", "Madrid", "Vienna", "Prague", "Dublin", "Athens", "Lisbon"),
    *("Warsaw", "Moscow", "Cairo", "Tokyo", "Seoul", "Beijing", "Delhi", "Mumbai", "Sydney"),
    *("Boston", "Chicago", "Dallas", "Denver", "Toronto", "Havana", "Bogotá", "Brasília"),
    *("Köln", "Zürich", "Málaga", "Łódź", "Kraków", "Århus", "Malmö", "Tromsø", "Reykjavík"),
    *("Ouagadougou", "Antananarivo", "Nouakchott", "N'Djamena", "Bujumbura", "Lilongwe"),
    *("Ljubljana", "Székesfehérvár", "Częstochowa", "Llanelli", "Oaxaca", "Tegucigalpa"),
    *("Ulaanbaatar", "Thiruvananthapuram", "Naypyidaw", "Ashgabat", "Dushanbe", "Bishkek"),
    *(
        "Yogyakarta",
        "Petropavlovsk",
        "Nizhny Novgorod",
        "St. John's",
        "Xi'an",
        "São Paulo",
        "Québec",
    ),
)
SEARCH: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "search for something",
        "parameters": {
            "type": "object",
            "properties": {"q": {"type": "string"}, "n": {"type": "integer"}},
            "required": ["q", "n"],
        },
    },
}
THRESHOLD = 0.8


@dataclass(frozen=True, slots=True)
class Made:
    """A call that was made: its city, what it asked for, and the two scores."""

    city: str
    asked: str
    whole: float
    values: float | None

    @property
    def right(self) -> bool:
        """Whether it asks for the city."""
        return self.asked == self.city


def conversation(city: str) -> tuple[BaseMessage, ...]:
    """Three calls, and the question for one more."""
    shown: list[BaseMessage] = []
    for q in SHOWN:
        call = {"name": "search", "args": {"q": q, "n": 3}, "id": q, "type": "tool_call"}
        shown += [HumanMessage(f"search for {q}"), AIMessage("", tool_calls=[call])]
    return (*shown, HumanMessage(f"search for {city}"))


def mean(logprobs: Sequence[float]) -> float:
    """The geometric mean probability."""
    return math.exp(math.fsum(logprobs) / len(logprobs))


async def ask(model: OpenAIModel, city: str) -> Made | None:
    """One call; None where the model made none."""
    request = Request(
        conversation(city), max_tokens=60, temperature=0, logprobs=True, tools=(SEARCH,)
    )
    # The raw reply has all tokens.
    reply: Any = await model._reply(model.payload(request))  # noqa: SLF001
    answer = Answer()
    answer.add(reply)
    calls = answer.completion(asked_for="").tool_calls
    if len(calls) != 1:
        return None
    items = reply["choices"][0]["logprobs"]["content"]
    found = call_logprobs(items, calls)
    return Made(
        city,
        str(calls[0]["args"].get("q")),
        mean([item["logprob"] for item in items]),
        None if found is None else mean([token.logprob for token in found]),
    )


def row(name: str, scores: Sequence[float], right: Sequence[bool]) -> str:
    """A line of the table."""
    taken = [is_right for score, is_right in zip(scores, right, strict=True) if score >= THRESHOLD]
    area = auroc(np.array(scores), np.array(right, dtype=float))
    return f"| {name} | {area:.2f} | {len(taken)} | {taken.count(False)} |"


async def run() -> None:
    """Ask for all cities and print the table."""
    server = LlamaCppServer(find_weights("smollm2-135m"), chat_template=HERMES)
    model = OpenAIModel("any", base_url=server.openai_url, api_key=server.api_key)
    asked = [await ask(model, city) for city in CITIES]
    await model.aclose()
    made = [call for call in asked if call is not None]
    found = [call for call in made if call.values is not None]
    right = [call.right for call in found]
    print(f"{len(CITIES)} cities, {len(made)} calls, {len(found)} found among their tokens")
    print(f"{sum(right)} of them are right")
    print(f"| score | AUROC | accepted at {THRESHOLD} | wrong among them |")
    print("|---|---|---|---|")
    print(row("all tokens of the call", [call.whole for call in found], right))
    print(row("name and values", [call.values or 0.0 for call in found], right))
    for call in found:
        if call.city in ("Paris", "Köln"):
            print(f"{call.city}: asked for {call.asked!r}, {call.whole:.2f} and {call.values:.2f}")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    asyncio.run(run())
