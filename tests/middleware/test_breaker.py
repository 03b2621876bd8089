from types import SimpleNamespace
from typing import Any

import pytest

from cascade.errors import CircuitOpenError, ModelTimeoutError, UnsupportedContentError
from cascade.middleware import Breaker, resilience


async def test_one_call_at_a_time_tries_a_server_also_where_it_fails_late(monkeypatch: Any) -> None:
    now, breaker = [0.0], Breaker(1, open_s=1, most_open_s=2)
    monkeypatch.setattr(resilience, "time", SimpleNamespace(monotonic=lambda: now[0]))
    tier = SimpleNamespace(model=SimpleNamespace(place="there", name="m"))
    call: Any = SimpleNamespace(tier=tier, request=SimpleNamespace(timeout_s=5.0))

    async def late(call: Any) -> Any:
        now[0] += 5.1
        if now[0] > 6:
            with pytest.raises(CircuitOpenError):
                await breaker.wrap_model_call(call, late)
        raise ModelTimeoutError("late", model="m", billed=None)

    async def refused(call: Any) -> Any:  # here, and the server never saw it
        raise UnsupportedContentError("an image", model="m")

    for pause_s in (1.0, 2.0, 2.0):
        with pytest.raises(ModelTimeoutError):
            await breaker.wrap_model_call(call, late)
        assert breaker._circuits["there"].pause_s == pause_s
        now[0] += pause_s
        with pytest.raises(UnsupportedContentError):
            await breaker.wrap_model_call(call, refused)
