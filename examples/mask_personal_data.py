"""A middleware of your own: e-mail addresses are masked before a model sees them, and put back.

python examples/mask_personal_data.py
"""

import re
from dataclasses import replace

from cascade import Cascade, CascadeMiddleware
from cascade.middleware import Ask, Slot
from cascade.run import Call
from cascade.state import Completion
from cascade.testing import ScriptedModel


class MaskAddresses(CascadeMiddleware):
    """Changes what is asked, as text alone, and what comes back, also of a stream as a whole."""

    slot = Slot.PROMPTS

    async def wrap_model_call(self, call: Call, handler: Ask) -> Completion:
        found: dict[str, str] = {}

        def mask(match: re.Match[str]) -> str:
            return found.setdefault(match[0], f"address{len(found) + 1}@example.com")

        masked = tuple(
            message.model_copy(update={"content": re.sub(r"\S+@\S+\.\w+", mask, message.text)})
            for message in call.request.messages
        )
        request = replace(call.request, messages=masked)
        completion = await handler(replace(call, request=request, on_chunk=None))
        text = completion.text
        for address, stand_in in found.items():
            text = text.replace(stand_in, address)
        return replace(completion, text=text)


small = ScriptedModel(
    lambda asked: f"I wrote to {asked.messages[-1].text.split()[-1]}", logprobs=0.9
)
with Cascade(small, ScriptedModel("…"), middleware=[MaskAddresses()]) as cascade:
    print("the user reads:", cascade.invoke("Write to ada@lovelace.org").answer)
print("the model read:", small.requests[0].messages[-1].text)
