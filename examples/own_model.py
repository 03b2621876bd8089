"""A model of your own as a tier, with a price of your own: exact arithmetic as the large model.

    python examples/own_model.py

Anything that answers can be a tier: implement `_complete`, and `_stream` where it answers in
pieces. Usage that it reports is priced; usage that it leaves out stays unknown, never zero.
"""

import re

from cascade import Cascade, Price, Tier
from cascade.models import Model, Request
from cascade.state import Completion, Usage
from cascade.testing import ScriptedModel, reply


class Calculator(Model):
    """Adds the numbers of a question."""

    provider = "python"
    model = "calculator"
    local = True  # no request leaves this machine
    real = False  # and none costs anything, so tests may ask it

    async def _complete(self, request: Request) -> Completion:
        question = request.messages[-1].text
        total = sum(int(number) for number in re.findall(r"\d+", question))
        usage = Usage(input_tokens=len(question.split()), output_tokens=1)
        return Completion(str(total), self.name, usage, finish_reason="stop")


DRAFTS = {"3 + 4 =": reply("7", probability=0.95), "58 + 67 =": reply("115", probability=0.5)}
small = Tier(ScriptedModel(DRAFTS), price=Price(per_hour=0.05))
large = Tier(Calculator(), price=Price(input=5, output=20))

with Cascade(small, large) as cascade:
    for question in DRAFTS:
        result = cascade.invoke(question)
        print(f"{question} {result.answer}   ({result.tier}: {result.decision.reason})")
