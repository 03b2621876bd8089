"""RAG with a grounding check: an answer with what its passage does not say goes to the large model.

    python examples/rag_grounded.py
    python examples/rag_grounded.py --live --small ollama:qwen2.5:3b --large openai:gpt-5.1

Needs: pip install agent-cascade. Offline both models are scripted: the small one is sure of
everything, and once wrong. The passage is found by common words; yours comes from your retriever.
"""

import re

from _live import yours

from cascade import Cascade, LedgerView, Price, Tier
from cascade.models import Request
from cascade.state import Completion
from cascade.testing import ScriptedModel, reply

PASSAGES = [
    "The library opens at 9 on weekdays and at 11 on Saturdays. On Sundays it is closed.",
    "A library card costs 12 euros a year. Children under 14 pay nothing.",
    "Books may be kept for 28 days, films for 7 days.",
]
SMALL = {  # a model's drafts, sure in the same way
    "When does it open on Saturdays?": "It opens at 10 on Saturdays.",
    "What does a card cost?": "A library card costs 12 euros a year.",
    "How long may films be kept?": "Films may be kept for 7 days.",
}
LARGE = {"When does it open on Saturdays?": "It opens at 11 on Saturdays."}


def words(text: str) -> set[str]:
    """The words and numbers of a text."""
    return set(re.findall(r"\w+", text.lower()))


def with_passage(question: str) -> str:
    """The question under the passage that has most of its words."""
    passage = max(PASSAGES, key=lambda passage: len(words(passage) & words(question)))
    return f"Answer from this passage alone.\n\n{passage}\n\n{question}"


def grounded(asked: str, answer: str) -> float:
    """A signal from 0 to 1: share of the answer's words that were there before it; 0 for a number
    or name that was not.
    """
    facts = " ".join(re.findall(r"\d+|\b[A-Z]\w+", answer))
    if words(facts) - words(asked):
        return 0.0
    return len(words(answer) & words(asked)) / max(1, len(words(answer)))


def drafts(request: Request) -> Completion:
    """Stands in for a small model that is always sure."""
    return reply(SMALL[request.messages[-1].text.splitlines()[-1]], probability=0.95)


small, large = yours(
    Tier(
        ScriptedModel(drafts, returns_logprobs=True),
        price=Price(input=0.02, output=0.06),
        max_tokens=100,  # a small model may talk on
    ),
    Tier(
        ScriptedModel(lambda request: LARGE[request.messages[-1].text.splitlines()[-1]]),
        price=Price(input=1.25, output=10),
    ),
)
cascade = Cascade(small, large, signals=["logprobs", grounded])
results = {question: cascade.invoke(with_passage(question)) for question in SMALL}
for question, result in results.items():
    print(f"{question}\n  {result.answer}  ({result.tier}: {result.decision.reason})")
print(LedgerView(entry for result in results.values() for entry in result.ledger).table())
