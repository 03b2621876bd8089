"""A machine's time is shared among the calls that use it at the same moment."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade.ledger.ledger import Machine
from tests.ledger.samples import Clock


def test_alone_on_a_machine_a_call_is_charged_what_the_server_says() -> None:
    clock = Clock()
    here, other = Machine(clock), Machine(clock).begin()
    for told, charged in ((800.0, (800.0, "measured")), (None, (1000.0, "estimated"))):
        end = here.begin()
        clock.now += 1
        assert end(told) == charged
    assert end(None)[0] == pytest.approx(1000), "ended twice, it is charged no more"
    assert other(2000.0) == (2000.0, "measured")


calls = st.tuples(st.floats(0, 10), st.floats(0, 10), st.none() | st.floats(0, 2))


@given(st.lists(calls, max_size=12))
def test_a_sum_is_within_the_time_used(calls: list[tuple[float, float, float | None]]) -> None:
    clock = Clock()
    machine = Machine(clock)
    moments = sorted(
        [(begin, 1, i) for i, (begin, _, _) in enumerate(calls)]
        + [(begin + length, 0, i) for i, (begin, length, _) in enumerate(calls)],
        key=lambda moment: (moment[0], -moment[1]),
    )
    uses, total, used, under_way, last = {}, 0.0, 0.0, 0, 0.0
    for at, begins, i in moments:
        used += at - last if under_way else 0
        clock.now = last = at
        under_way += 1 if begins else -1
        if begins:
            uses[i] = machine.begin()
        else:
            _, length, share = calls[i]
            total += uses[i](None if share is None else 1000 * length * share)[0]
    assert total <= 1000 * used + 1e-6
