"""A report on savings: what the ledger and its audits prove, also as a page in report.html.

    python examples/report.py
    python examples/report.py --live --small ollama:qwen2.5:3b --large openai:gpt-5.1

Needs: pip install "agent-cascade[store,calibrate]". Offline both models are scripted. It writes
report.db, which later runs add to; the draws of the audits differ from run to run. Live, 400
questions cost a few cents.
"""

import asyncio
import random
from pathlib import Path

from _live import yours

from cascade import Cascade, Price, Tier
from cascade.ledger.store import open_store
from cascade.models import Request
from cascade.report import Report, make_report
from cascade.state import Completion
from cascade.testing import ScriptedModel, reply


def numbers(request: Request) -> tuple[random.Random, int, int]:
    """The two numbers of the question, and chance that is the same for the same question."""
    a, b = (int(word) for word in str(request.messages[-1].text).split() if word.isdigit())
    return random.Random(f"{a} {b}"), a, b  # noqa: S311 - nothing to be kept secret


def drafts(request: Request) -> Completion:
    """Often wrong where it is not sure, seldom where it is."""
    chance, a, b = numbers(request)
    sure = chance.uniform(0.6, 1.0)
    right = chance.random() < 0.3 + 0.7 * sure
    return reply(str(a * b + (0 if right else 10)), probability=sure, input_tokens=24)


def answers(request: Request) -> Completion:
    """Right, and wordy."""
    chance, a, b = numbers(request)
    return reply(str(a * b), input_tokens=24, output_tokens=chance.randint(20, 120))


async def main() -> Report:
    """Ask 400 questions, then read the ledger."""
    async with open_store("sqlite:///report.db") as store:
        small, large = yours(
            Tier(ScriptedModel(drafts, returns_logprobs=True), price=Price(input=0.05, output=0.2)),
            Tier(ScriptedModel(answers), price=Price(input=2, output=10)),
        )
        cascade = Cascade(small, large, ledger=store, audit_rate=0.2)
        for i in range(400):
            await cascade.ainvoke(f"What is {11 + i % 20} times {12 + i} ?")
        await cascade.aclose()  # the audits that are under way finish
        return await make_report(store, by=("node",))


report = asyncio.run(main())
print(report.text())
Path("report.html").write_text(report.html(), encoding="utf-8")
