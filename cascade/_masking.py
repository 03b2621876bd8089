"""Takes out of a text what its readers may not have: keys, addresses, accounts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

__all__ = ["GAP", "mask_keys", "mask_places", "mask_quotes"]

GAP = "[…]"
"""What stands in its place."""

SHORTEST_QUOTE = 16
"""Characters of a text that are taken for a quote of it, and not for words that both have."""

MOST_SHOWN = 2_000
"""Characters of what a client is told."""

MOST_COMPARED = 200_000
"""Characters of a text in which quotes are looked for."""

_KEYS = re.compile(
    # by the usual prefixes, also as providers show them: sk-proj-…****abcd
    r"\b(?:sk|pk|rk|key|gsk|hf|xai|csk|ghp|gho|ghs|glpat|pplx|nvapi|r8|xox[abprs])[-_][\w*.…-]{6,}"
    r"|\bgithub_pat_\w{8,}|\bAKIA[A-Z0-9]{12,}|\bAIza[\w-]{20,}|\bya29\.[\w.-]{10,}"
    r"|\beyJ[\w-]{8,2000}\.[\w-]{8,2000}\.[\w-]*"  # JSON web tokens
    r"|\bBearer\s+[^\s,;'\"]+|\bBasic\s+[A-Za-z0-9+/]{8,}=*",
    re.IGNORECASE,
)
_PASSWORD = re.compile(r"(\b[a-z][a-z0-9+.-]{0,30}://)[^\s/@'\"]{0,300}@", re.IGNORECASE)

_PLACES = re.compile(
    r"\b[a-z][a-z0-9+.-]{1,20}://[^\s'\"<>)\]]+"
    r"|[\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]{1,64})+"
    r"|\b(?:org|proj|acct|user|team|account|project|workspace|subscription|tenant|req|request|asst"
    r"|resp|run|file|cus)[-_](?=[a-z_]{0,40}\d)\w{6,}"
    r"|\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"
    r"|\barn:[\w:/*.-]+"
    r"|\b\d{1,3}(?:\.\d{1,3}){3}(?::\d{1,5})?\b"
    r"|\[(?=[0-9a-f.%]{0,40}:)[0-9a-f:.%]{2,50}\](?::\d{1,5})?"
    r"|\[?\b(?:[0-9a-f]{1,4}:){3,7}[0-9a-f]{0,4}(?:::?[0-9a-f]{1,4})*\]?(?::\d{1,5})?"
    r"|\b(?:localhost|[\w-][\w.-]{0,200}\.(?:internal|local|lan|corp|svc|cluster|intranet)"
    r"(?:\.[\w-]{1,63}){0,4})(?::\d{1,5})?\b"
    r"|\b[\w-][\w.-]{0,200}\.[\w-]{1,63}:\d{2,5}\b"
    r"|(?<![\w.])(?:/[\w.@+-]{1,255}){2,}/?|\b[A-Za-z]:\\[^\s'\"]+",
    re.IGNORECASE,
)


def mask_keys(text: str, secrets: Iterable[str] = ()) -> str:
    """The text without keys and passwords: those that are given, and what looks like one."""
    for secret in secrets:
        if len(secret) >= 6:  # shorter ones, such as `none`, are words
            text = text.replace(secret, GAP)
    return _KEYS.sub(GAP, _PASSWORD.sub(rf"\1{GAP}@", text))


def mask_places(text: str) -> str:
    """The text without addresses, paths, and names of accounts and requests elsewhere; and
    without its end, where it is longer than `MOST_SHOWN`.
    """
    shown = text if len(text) <= MOST_SHOWN else text[: MOST_SHOWN - 1] + "…"
    return _PLACES.sub(GAP, shown)


def mask_quotes(text: str, sources: Iterable[str]) -> str:
    """The text without what it quotes of others, from `SHORTEST_QUOTE` characters on."""
    if len(text) < SHORTEST_QUOTE:
        return text
    quoted = [False] * len(text)
    for source in sources:
        # A quote in JSON or in Python has other spellings of the same characters.
        compared = source[:MOST_COMPARED]
        for spelling in {compared, repr(compared), json.dumps(compared)}:
            _mark(text, spelling, quoted)
    return _without(text, quoted) if any(quoted) else text


def _mark(text: str, source: str, quoted: list[bool]) -> None:
    if len(source) < SHORTEST_QUOTE:
        return
    for start in range(len(text) - SHORTEST_QUOTE + 1):
        end = start + SHORTEST_QUOTE
        if text[start:end] in source:
            quoted[start:end] = [True] * SHORTEST_QUOTE


def _without(text: str, quoted: list[bool]) -> str:
    pieces, inside = [], False
    for character, is_quoted in zip(text, quoted, strict=True):
        if not is_quoted:
            pieces.append(character)
        elif not inside:
            pieces.append(GAP)
        inside = is_quoted
    return "".join(pieces)
