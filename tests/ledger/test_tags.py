"""Tags are text, wherever they are given."""

from __future__ import annotations

from typing import Any

import pytest

from cascade import Cascade
from cascade.errors import ConfigurationError
from cascade.ledger import tagged
from cascade.ledger.store import open_store
from cascade.testing import ScriptedModel


@pytest.mark.parametrize("tags", [{"user": 42}, {1: "a"}, "user", ["user"], {"user": None}])
def test_what_is_no_text_is_refused_where_it_is_given(tags: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"give names and values as text"):
        open_store("memory://", tags=tags)
    with pytest.raises(ConfigurationError, match=r"tags of the cascade"):
        Cascade(ScriptedModel("4"), ScriptedModel("5"), tags=tags)


def test_a_number_in_a_context_is_refused() -> None:
    number: Any = 42
    with (
        pytest.raises(ConfigurationError, match=r"tagged\(…\) are \{'user': 42\}"),
        tagged(user=number),
    ):
        raise AssertionError
