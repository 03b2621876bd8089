"""Classification of a CSV file: every row answered, within a budget, and gone on with later.

    python examples/classify_csv.py

It writes reviews.csv, answers.csv and answers.csv.journal; run again it asks nothing again. As a
command it is `cascade batch` (docs/batch.md).
"""

import asyncio
import csv
from decimal import Decimal
from pathlib import Path

from cascade import Cascade, Price, Tier
from cascade.jobs import Journal, made_with, read_rows, run_job, write_output
from cascade.models import Request
from cascade.state import Completion
from cascade.testing import ScriptedModel, reply

GOOD, BAD = ("best", "love", "happy", "easy"), ("broke", "late", "refund", "wrong")
REVIEWS = {
    "The best lamp that I ever had.": "positive",
    "It broke after a day.": "negative",
    "Came late, but we are happy with it.": "positive",
    "Not what I expected.": "negative",
    "Easy to put together.": "positive",
}
INSTRUCTION = "Is this review positive or negative? One word."


def count(request: Request) -> Completion:
    """Stands in for a small model: sure where only good or only bad words occur."""
    text = request.messages[-1].text.lower()
    good, bad = (sum(word in text for word in words) for words in (GOOD, BAD))
    sure = 0.95 if (good == 0) != (bad == 0) else 0.5
    return reply("positive" if good > bad else "negative", probability=sure, input_tokens=30)


small = Tier(ScriptedModel(count, returns_logprobs=True), price=Price(input=0.02, output=0.06))
large = Tier(ScriptedModel(REVIEWS), price=Price(input=1.25, output=10))
source, output = Path("reviews.csv"), Path("answers.csv")
with source.open("w", newline="", encoding="utf-8") as file:
    csv.writer(file).writerows([["id", "review"], *enumerate(REVIEWS, 1)])

with (
    Cascade(small, large) as cascade,
    Journal(Path("answers.csv.journal"), made_with(cascade, system=INSTRUCTION)) as journal,
):
    rows = read_rows(source, column="review", system=INSTRUCTION)
    done = asyncio.run(run_job(cascade, rows, journal, budget_usd=Decimal("0.50")))
    write_output(output, read_rows(source, column="review", system=INSTRUCTION), journal)

with output.open(encoding="utf-8", newline="") as file:
    for row in csv.DictReader(file):
        print(f"{row['answer']:9} {row['tier']:6} {row['review']}")
print(f"{done.answered} answered, {done.escalated} by the large model, ${done.spent_usd} spent")
