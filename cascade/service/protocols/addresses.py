"""Addresses that a request brings along: who would fetch them, and from where."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from cascade.api import Cascade
from cascade.service.faults import ServiceError

__all__ = ["check_addresses"]

_PLACES = frozenset({"url", "file_url", "image_url", "audio_url", "video_url"})
"""Where parts of messages have addresses, in OpenAI's form."""

_INSIDE = ("internal", "local", "localhost", "lan", "corp", "home", "intranet", "cluster", "svc")
"""Ends of names that mean something within a network alone."""

_HOSTED = "openai"
"""The one kind of tier whose provider, and not this process, fetches an address."""


def check_addresses(messages: Sequence[Any], cascade: Cascade) -> None:
    """Refuse what would be fetched from within this network: whoever sends the address chooses
    whom the service talks to (server-side request forgery).

    Data within the request (`data:…`) is always taken. Other addresses go to hosted tiers as they
    are, where they are public ones of the web; no tier in or on this machine gets one.

    Raises:
        ServiceError: 400, naming the way out.
    """
    found = [url for message in messages for url in _urls(message)]
    outside = [url for url in found if not url.strip().lower().startswith("data:")]
    if not outside:
        return
    for url in outside:
        if not _is_public(url):
            raise _refused(f"{url!r:.80} is no public address of the web")
    for tier in cascade.tiers:
        if tier.local or tier.model.provider != _HOSTED:
            raise _refused(f"the tier {tier.name!r} would fetch it from within this network")


def _refused(why: str) -> ServiceError:
    return ServiceError(
        400,
        f"messages: {why}: send the data itself, as data:image/png;base64,…",
        code="address_not_allowed",
        param="messages",
    )


def _urls(message: Any) -> Iterator[str]:
    content = message.get("content") if isinstance(message, Mapping) else message.content
    if isinstance(content, str):
        return
    waiting = list(content or ())
    while waiting:
        part = waiting.pop()
        if isinstance(part, Mapping):
            for name, value in part.items():
                if isinstance(value, str) and name in _PLACES:
                    yield value
                elif isinstance(value, Mapping | list):
                    waiting.append(value)
        elif isinstance(part, list):
            waiting += part


def _is_public(url: str) -> bool:
    """Whether it is of the web, and by a name or number that others know, too."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").rstrip(".")
    except ValueError:
        return False
    if parts.scheme not in ("http", "https") or not host or parts.username is not None:
        return False
    try:
        return ip_address(host).is_global
    except ValueError:
        end = host.rpartition(".")[2]
        # 127.1, 2130706433 and 0x7f.1 are numbers, too.
        return "." in host and not end[:1].isdigit() and end not in _INSIDE
