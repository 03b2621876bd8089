"""The shortest way in: a sure draft, a doubtful one, and what each node cost and saved.

    python examples/quickstart.py

Both models answer from a script here. With real ones the two lines are
`small = Tier("ollama:qwen2.5:3b", price=Price(per_hour=0.05))` and `large = "openai:gpt-5.1"`.
"""

from cascade import Cascade, Price, Tier
from cascade.testing import ScriptedModel, reply

DRAFTS = {
    "What is the capital of Australia?": reply("Canberra", probability=0.97),
    "Which Australian state is the smallest?": reply("Victoria", probability=0.45),
}
small = Tier(ScriptedModel(DRAFTS), price=Price(input=0.02, output=0.06))
large = Tier(ScriptedModel("Tasmania"), price=Price(input=1.25, output=10))

with Cascade(small, large) as cascade:
    for question in DRAFTS:
        result = cascade.invoke(question)
        print(f"{question}  →  {result.answer}")
        print(f"from the {result.tier} model: {result.decision.reason}")
        print(result.ledger.table(), end="\n\n")
