"""Addresses of servers: which are on this machine, and how they may be shown."""

from __future__ import annotations

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


def without_secrets(url: str) -> str:
    """The address for an error message, without a password or query in it."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", "")).rstrip("/")
