"""Addresses of servers: which are on this machine, and how they may be shown."""

from __future__ import annotations

import re
from ipaddress import ip_address
from urllib.parse import urlsplit, urlunsplit


def is_loopback(url: str) -> bool:
    """Whether a server is on this machine, so that what is sent does not leave it."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ip_address(host)
        # 0.0.0.0 is how OLLAMA_HOST is often set; a client that connects to it stays here.
        return address.is_loopback or address.is_unspecified
    except ValueError:
        return False


_FORWARDED = re.compile(r"[:-]cloud$")
"""Models that Ollama, also one on this machine, passes on to its own servers."""


def stays_here(url: str, model: str) -> bool:
    """Whether what is sent to a model of this name at this address stays on this machine."""
    return is_loopback(url) and _FORWARDED.search(model) is None


def without_secrets(url: str) -> str:
    """The address for an error message, without a password or query in it."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", "")).rstrip("/")
