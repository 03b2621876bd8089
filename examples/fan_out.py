"""A hundred questions at once, in order, with what they cost and saved together.

Run it as it is: python examples/fan_out.py
"""

import asyncio

from cascade import Cascade, LedgerView, Price, Tier
from cascade.testing import ScriptedModel

SHOTS = [
    ("human", "What is the opposite of hot?"),
    ("ai", "The opposite of hot is cold."),
    ("human", "What is the opposite of clean?"),
    ("ai", "The opposite of clean is dirty."),
]
WORDS = ["big", "fast", "old", "rich", "happy", "light", "open", "early", "strong", "full"] * 10


async def main() -> None:
    cascade = Cascade(
        small=Tier(
            "llamacpp:smollm2-135m", price=Price(per_hour=0.05), max_tokens=12, temperature=0
        ),
        # stands in for your large model
        large=Tier(
            ScriptedModel(lambda request: "An answer of the large model"),
            price=Price(input=1.25, output=10),
        ),
    )
    questions = [[*SHOTS, ("human", f"What is the opposite of {word}?")] for word in WORDS]
    async with cascade:
        results = await cascade.abatch(questions, max_concurrency=8)
    for word, result in list(zip(WORDS, results, strict=True))[:10]:
        print(f"{word:8} {result.answer:36} {result.tier:6} {result.confidence:.2f}")
    escalated = sum(result.escalated for result in results)
    print(f"\n{len(results)} answers, {escalated} from the large model")
    print(LedgerView(entry for result in results for entry in result.ledger).table())


asyncio.run(main())
