"""An audit by a real model, whose answer is measured and compared."""

from __future__ import annotations

import pytest

from cascade import Cascade, Price, Tier
from cascade.errors import ModelNotFoundError
from cascade.ledger import MemoryLedger
from cascade.models.llamacpp import find_weights
from cascade.policies import ThresholdPolicy

pytest.importorskip("xllamacpp", reason='pip install "agent-cascade[llamacpp]"')
try:
    find_weights("smollm2-135m")
except ModelNotFoundError as missing:
    pytest.skip(str(missing), allow_module_level=True)

pytestmark = pytest.mark.live


def test_a_model_that_is_audited_by_itself_agrees_with_itself() -> None:
    ledger = MemoryLedger()
    tiers = [
        Tier(
            "llamacpp:smollm2-135m", name=name, max_tokens=6, temperature=0, price=Price(per_hour=h)
        )
        for name, h in (("small", 1), ("large", 100))
    ]
    policy = ThresholdPolicy(0.0)
    with Cascade(tiers=tiers, policy=policy, audit_rate=1.0, ledger=ledger) as cascade:
        answer = cascade.invoke("What is the capital of France?").answer
    assert answer
    call, result = [entry for entry in ledger.entries if entry.node == "audit"]
    assert result.loss == 0.0
    assert result.large_usd == call.cost_usd
    assert (result.large_usd or 0) > 0
