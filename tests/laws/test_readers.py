"""Whatever bytes come, each reader reads them or refuses them with an error that it documents.

The beginnings are those of `scripts/fuzz.py`, which searches on from there; what it found once is
in `FOUND`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz_seeds import SEEDS
from fuzz_targets import TARGETS

DEEP = b"[" * 20_000
VALUE = re.compile(rb'(?<=: )("(?:[^"\\]|\\.)*"|-?[\d.]+|null|true|\[\]|\{\})')
ODD = [
    b"NaN",
    b"1e999",
    b"-1",
    b"9" * 4_400,
    b"9" * 30,
    b'"9e999999"',
    b'"1E-999999"',
    b'"\\ud800"',
    b'""',
    b"null",
    b"[]",
    b"{}",
    b"[" * 900 + b"]" * 900,
]
FOUND = {
    "gguf_heads": [
        b"GGUF" + bytes([3] + [0] * 11 + [1] + [0] * 7) + size + b"k" + rest
        for size in [bytes([1] + [0] * 7)]
        for rest in (
            b"\x09\0\0\0" + b"\x09\0\0\0\x01\0\0\0\0\0\0\0" * 5_000,
            b"\x09\0\0\0\x08\0\0\0\x02\0\0\0\0\0\0\0" + b"\0" * 7 + b"\x40",
            b"\x09\0\0\0\x08\0\0\0\x02\0\0\0\0\0\0\0" + b"\xff" * 8,
        )
    ],
    "configurations": [
        b"a: &a [x, x, x, x, x, x, x, x, x, x]\n"
        + b"\n".join(
            b"%c: &%c [%s]" % (letter, letter, b", ".join([b"*%c" % (letter - 1)] * 10))
            for letter in range(ord("b"), ord("i"))
        ),
        b"a: &a [*a]",
        b"a: " + b"9" * 5_000,
    ],
    "spoken_calls": [b'{"name": "weather", "arguments": {"city": 1e999}}'],
    "openai_stream": [b"data: " + DEEP + b"\n\n"],
    "recordings": [SEEDS["recordings"][0].split(b"\n")[0] + b"\n" + DEEP + b"\n"],
}
NAMES = sorted(TARGETS)


def spoiled(name: str) -> Iterator[bytes]:
    """Each value of the beginnings replaced by each odd one."""
    for seed in SEEDS[name]:
        for place in VALUE.finditer(seed):
            for odd in ODD:
                yield seed[: place.start()] + odd + seed[place.end() :]


@pytest.mark.parametrize("name", NAMES)
def test_a_beginning_is_read(name: str) -> None:
    assert SEEDS[name]
    for seed in SEEDS[name]:
        TARGETS[name](seed)


@pytest.mark.parametrize("name", NAMES)
def test_what_was_found_is_refused(name: str) -> None:
    for data in [b"", b"\0", b"\xff\xfe", b"null", DEEP, *FOUND.get(name, [])]:
        TARGETS[name](data)


@pytest.mark.parametrize("name", NAMES)
def test_a_beginning_with_another_value_in_any_place_is_read_or_refused(name: str) -> None:
    inputs = list(spoiled(name))
    for data in inputs[:: max(1, len(inputs) // 25)]:
        TARGETS[name](data)


@settings(max_examples=20)
@given(st.data())
@pytest.mark.parametrize("name", NAMES)
def test_a_beginning_that_is_cut_or_changed_is_read_or_refused(
    name: str, data: st.DataObject
) -> None:
    seed = data.draw(st.sampled_from(SEEDS[name]))
    at = data.draw(st.integers(0, len(seed)))
    put = data.draw(st.binary(max_size=4))
    until = data.draw(st.integers(at, len(seed)))
    TARGETS[name](seed[:at] + put + seed[until:])
