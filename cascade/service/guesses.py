"""How long who sends wrong keys has to wait: longer with each."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network

from fastapi import Request

__all__ = ["FORGOTTEN_S", "FREE", "LONGEST_S", "MOST_ADDRESSES", "Guesses", "address_of"]

FREE = 20
"""Wrong keys of an address that cost it nothing: a team behind one address mistypes some."""

LONGEST_S = 300.0
"""The delay doubles from a second up to this."""

FORGOTTEN_S = 900.0
"""After so long without a wrong key, an address begins anew."""

MOST_ADDRESSES = 10_000
"""Addresses that are remembered; who tried longest ago is forgotten."""


@dataclass(slots=True)
class _Tried:
    wrong: int
    at: float


class Guesses:
    """Wrong keys by address. A key that was right before is never held up, so that nobody can
    lock others out from behind the same proxy.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tried: OrderedDict[str, _Tried] = OrderedDict()

    def wait_s(self, address: str) -> float | None:
        """Seconds until a new key from this address is looked at; None where it is now."""
        tried, now = self._tried.get(address), self._clock()
        if tried is None or tried.wrong < FREE:
            return None
        if now - tried.at >= FORGOTTEN_S:
            del self._tried[address]
            return None
        # Of many, 2 to the power of them is no number of seconds any more.
        delay_s = min(LONGEST_S, 2.0 ** min(tried.wrong - FREE, 20))
        left_s = tried.at + delay_s - now
        return left_s if left_s > 0 else None

    def count(self, address: str) -> None:
        """A key is tried. Counted before it is looked up: many at once are no way around."""
        now = self._clock()
        tried = self._tried.pop(address, None)
        before = 0 if tried is None or now - tried.at >= FORGOTTEN_S else tried.wrong
        self._tried[address] = _Tried(before + 1, now)
        if len(self._tried) > MOST_ADDRESSES:
            self._tried.popitem(last=False)

    def take_back(self, address: str) -> None:
        """It was right, or nobody knows. What was wrong before it stays counted: else whoever has
        one key could try others between its requests.
        """
        tried = self._tried.get(address)
        if tried is not None and tried.wrong > 1:
            tried.wrong -= 1
        else:
            self._tried.pop(address, None)


def address_of(request: Request) -> str:
    """The address that counts: of the connection, or, where that is one of `listen.proxies`, what
    they say in `X-Forwarded-For`. Of IPv6 its network: whoever has one address has 2^64 of them.
    """
    host = request.client.host if request.client else ""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host[:64]
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ip_network((address, 64), strict=False))
    return str(address)
