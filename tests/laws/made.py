"""Records as they may be, for laws: every field, odd texts, extreme amounts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from cascade.state import Certificate, Completion, LedgerEntry, TokenLogprob, ToolCall, Usage

NAME = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=8
)
COUNT = st.none() | st.integers(0, 10**9)
AMOUNT = st.none() | st.decimals(-(10**6), 10**6, allow_nan=False, allow_infinity=False, places=12)
SHARE = st.none() | st.floats(0, 1)
WHEN = st.integers(0, 4 * 10**15).map(
    lambda us: datetime.fromtimestamp(0, UTC) + timedelta(microseconds=us)
)
TAGS = st.dictionaries(
    NAME, st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6), max_size=2
)
PLAIN = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)

ENTRIES = st.builds(
    LedgerEntry,
    run_id=NAME,
    node=NAME,
    tier=st.none() | NAME,
    model=st.none() | NAME,
    **dict.fromkeys(
        (
            "input_tokens",
            "output_tokens",
            "cached_tokens",
            "reasoning_tokens",
            "cache_write_tokens",
        ),
        COUNT,
    ),
    tool_calls=st.integers(0, 9),
    latency_ms=st.floats(0, 1e9),
    **dict.fromkeys(
        (
            "cost_usd",
            "saved_usd",
            "baseline_usd",
            "marginal_usd",
            "assumed_usd",
            "baseline_low_usd",
            "baseline_high_usd",
            "large_usd",
        ),
        AMOUNT,
    ),
    cost_basis=st.sampled_from(["measured", "estimated", "unknown"]),
    basis=st.sampled_from(["measured", "estimated", "unknown"]),
    outcome=st.sampled_from(["ok", "failed", "cancelled", "not_sent"]),
    note=PLAIN,
    at=WHEN,
    attempt_id=st.none(),
    price=st.none() | PLAIN,
    prompt_hash=st.none() | NAME,
    answer_hash=st.none() | NAME,
    action=st.sampled_from([None, "accept", "escalate", "abstain", "ask", "observe"]),
    confidence=SHARE,
    calibrated=st.booleans(),
    signals=st.none() | st.dictionaries(NAME, st.floats(-1e6, 1e6), max_size=3),
    audit_rate=SHARE,
    loss=st.none() | st.floats(-1, 1),
)

LOGPROBS = st.builds(
    TokenLogprob,
    token=PLAIN,
    logprob=st.floats(-100, 0),
    top=st.lists(st.tuples(PLAIN, st.floats(-100, 0)), max_size=2).map(tuple),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(-1e9, 1e9) | PLAIN,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(PLAIN, inner, max_size=2),
    max_leaves=4,
)
CALLS = st.builds(
    ToolCall,
    name=NAME,
    args=st.dictionaries(PLAIN, JSON, max_size=2),
    id=NAME,
    type=st.just("tool_call"),
)
COMPLETIONS = st.builds(
    Completion,
    text=PLAIN,
    model=NAME,
    usage=st.builds(Usage, input_tokens=COUNT, output_tokens=COUNT),
    logprobs=st.none() | st.lists(LOGPROBS, min_size=1, max_size=3).map(tuple),
    tool_calls=st.lists(CALLS, max_size=2).map(tuple),
    finish_reason=st.none() | NAME,
    thinking=st.none() | PLAIN,
    latency_ms=st.floats(0, 1e6),
    busy_ms=st.none() | st.floats(0, 1e6),
    cached=st.booleans(),
    call_logprobs=st.none() | st.lists(LOGPROBS, min_size=1, max_size=3).map(tuple),
)
CERTIFICATES = st.builds(
    Certificate,
    **dict.fromkeys(("threshold", "max_harm", "delta", "coverage", "bound"), st.floats(0, 1)),
    n=st.integers(0, 10**6),
    errors=st.integers(0, 10**6),
    valid_until=st.none() | WHEN,
)
