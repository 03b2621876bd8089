"""A shadow start with the embedded model as the one that drafts."""

from __future__ import annotations

import pytest

from cascade import Cascade, Price, Tier
from cascade.errors import ModelNotFoundError
from cascade.ledger import MemoryLedger
from cascade.models.llamacpp import find_weights
from cascade.testing import ScriptedModel

pytest.importorskip("xllamacpp", reason='pip install "agent-cascade[llamacpp]"')
try:
    find_weights("smollm2-135m")
except ModelNotFoundError as missing:
    pytest.skip(str(missing), allow_module_level=True)

pytestmark = pytest.mark.live


async def test_the_embedded_model_drafts_beside_a_large_one() -> None:
    ledger = MemoryLedger()
    # As short as what is compared without a judge, and the same each time.
    small = Tier("llamacpp:smollm2-135m", price=Price(per_hour=1), max_tokens=3, temperature=0)
    large = Tier(ScriptedModel(["Paris"]), price=Price(input=10, output=10))
    async with Cascade(small, large, mode="shadow", ledger=ledger) as cascade:
        result = await cascade.ainvoke("What is the capital of France? One word.")
        assert result.tier == "large"
    draft, found = [entry for entry in ledger.entries if entry.node == "shadow"]
    assert draft.cost_usd is not None
    assert draft.cost_usd > 0
    assert found.confidence is not None
    assert 0 < found.confidence < 1
    assert found.signals is not None
    assert found.loss is not None
