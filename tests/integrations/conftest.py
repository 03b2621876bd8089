from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cascade import Cascade, Price, Tier
from cascade.testing import ScriptedModel

PRICE = Price(input=1, output=2)


@pytest.fixture
def pair() -> Callable[..., Cascade]:
    """Makes a cascade of two priced models that say what the test gives them."""

    def make(draft: Any, large: Any = "Canberra", **options: Any) -> Cascade:
        models = (given if isinstance(given, ScriptedModel) else ScriptedModel(
            given if callable(given) else [given], name=name
        ) for name, given in (("small", draft), ("large", large)))  # fmt: skip
        small, large = (Tier(model, price=PRICE) for model in models)
        return Cascade(small, large, **options)

    return make
