"""The shortest way in: two models, one question after the other, and what each node cost.

Run it as it is: python examples/quickstart.py
The small model runs in this process. The large one answers from a recording; to use one of
yours: CASCADE_LARGE=openai:gpt-5.1 python examples/quickstart.py
"""

import os

from cascade import Cascade, Price, Tier
from cascade.demo.large import recorded_path
from cascade.demo.prompts import MAX_TOKENS
from cascade.demo.questions import load_questions

small = Tier(
    "llamacpp:smollm2-135m", price=Price(per_hour=0.05), max_tokens=MAX_TOKENS, temperature=0
)
large = Tier(
    os.environ.get("CASCADE_LARGE", f"replay:{recorded_path()}"),
    price=Price(input=0.10, output=0.10),
    max_tokens=MAX_TOKENS,
    temperature=0,
)
cascade = Cascade(small, large)
questions = {question.id: question for question in load_questions()}

for name in ("capital-01", "plural-01", "arithmetic-12"):
    question = questions[name]
    result = cascade.invoke(question.messages)
    print(f"{question.question}  →  {result.answer}")
    print(f"from the {result.tier} model: {result.decision.reason}")
    print(result.ledger.table(), end="\n\n")
