"""A verifier of your own: a draft is accepted when it passes a test, whatever its confidence.

Run it as it is: python examples/own_verifier.py
"""

import re

from cascade import Cascade, Tier
from cascade.testing import ScriptedModel

SHOTS = [
    ("human", "A date in the year 1969, as YYYY-MM-DD."),
    ("ai", "1969-07-20"),
]


def is_a_date_of_that_year(question: str, answer: str) -> bool:
    """Return True to accept, False to escalate, or a confidence between 0 and 1."""
    year = re.search(r"\d{4}", question)
    return bool(year and re.fullmatch(rf"{year.group()}-\d\d-\d\d", answer.strip()))


cascade = Cascade(
    small=Tier("llamacpp:smollm2-135m", max_tokens=12, temperature=0),
    large=ScriptedModel(["1999-12-31"] * 2),  # stands in for your large model
    verifier=is_a_date_of_that_year,
)
for question in ("A date in the year 1989, as YYYY-MM-DD.", "Any date in the year 1999, in words."):
    result = cascade.invoke([*SHOTS, ("human", question)])
    print(f"{question}\n  {result.answer}   ({result.tier}: {result.decision.reason})")
