"""What can be wrong with what a reply says: counts, log-probabilities, answers, addresses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from tests.servers.fault import Fault
from tests.servers.replies import Reply
from tests.servers.saying import Asked, Said, frames, reply, spelled, tokens_of, written

Json = Mapping[str, object]
NAN, INFINITY = float("nan"), float("inf")

# counts


def _counted(asked: Asked, said: Said, **change: Any) -> Reply:
    return reply(asked, replace(said, **change))


def _both(value: object) -> Mapping[str, object]:
    return {"input_tokens": value, "output_tokens": value}


_COUNTS: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "missing": ("no usage at all", {"usage": False}),
    "null": ("null tokens", _both(None)),
    "negative": ("-5 tokens", _both(-5)),
    "absurd": ("10^15 tokens", _both(10**15)),
    "beyond floats": ("10^400 tokens", _both(10**400)),
    "text": ("'12' tokens", _both("12")),
    "fraction": ("2.5 tokens", _both(2.5)),
    "not a number": ("NaN tokens", _both(NAN)),
    "true": ("true tokens", _both(True)),
    "half known": ("the output is not counted", {"output_tokens": None}),
    "zero": ("0 tokens for an answer of several words", _both(0)),
}

COUNTS = tuple(
    Fault(f"usage {name}", meaning, "counts", partial(_counted, **change))
    for name, (meaning, change) in _COUNTS.items()
)


def _detailed(asked: Asked, said: Said, *, openai: Json, ollama: Json) -> Reply:
    return reply(asked, replace(said, details=openai if asked.protocol == "openai" else ollama))


_BEYOND = {"prompt_tokens_details": {"cached_tokens": 10**6}}
_THOUGHT = {"completion_tokens_details": {"reasoning_tokens": 10**6}}
_IDLE = {"prompt_eval_duration": -(10**9), "eval_duration": -(10**9)}

COUNTS = (
    *COUNTS,
    Fault("usage cached beyond", "more from the cache than was read", "counts",
          partial(_detailed, openai=_BEYOND, ollama={}), ("openai",)),
    Fault("usage reasoning beyond", "more reasoning than output", "counts",
          partial(_detailed, openai=_THOUGHT, ollama={}), ("openai",)),
    Fault("busy for ages", "it computed for longer than anybody waited", "counts",
          partial(_detailed, openai={}, ollama={"eval_duration": 10**14}), ("ollama",)),
    Fault("busy negative", "it computed for less than no time", "counts",
          partial(_detailed, openai={}, ollama=_IDLE), ("ollama",)),
)  # fmt: skip

# log-probabilities

Items = Callable[[Said], tuple[object, ...] | None]


def _likely(asked: Asked, said: Said, *, items: Items) -> Reply:
    return reply(asked, replace(said, items=items(said)))


def _worth(value: object) -> Items:
    return lambda said: spelled(said.text, value)


def _one_bad(said: Said) -> tuple[object, ...]:
    return (*spelled(said.text, -0.02)[:-1], {"token": tokens_of(said.text)[-1], "logprob": NAN})


def _unnamed(said: Said) -> tuple[object, ...]:
    return tuple({"token": None, "logprob": -0.02} for _ in tokens_of(said.text))


_LOGPROBS: Mapping[str, tuple[str, Items]] = {
    "absent": ("none", lambda _: None),
    "empty": ("an empty list", lambda _: ()),
    "not a number": ("NaN for each token", _worth(NAN)),
    "positive": ("0.7 for each token", _worth(0.7)),
    "-9999": ("vLLM's placeholder for each token", _worth(-9999.0)),
    "-infinity": ("minus infinity for each token", _worth(-INFINITY)),
    "all zero": ("0 for each token: as sure as can be", _worth(0.0)),
    "text": ("'-0.02' for each token", _worth("-0.02")),
    "null": ("null for each token", _worth(None)),
    "one not a number": ("the last token has none", _one_bad),
    "of another text": (
        "tokens that do not spell the answer",
        lambda _: spelled("Sydney, of course, as anybody knows", -0.02),
    ),
    "of half the text": (
        "tokens that spell the first half",
        lambda said: spelled(said.text, -0.02)[:2],
    ),
    "null items": ("null instead of tokens", lambda said: (None,) * len(tokens_of(said.text))),
    "tokens null": ("tokens without a text", _unnamed),
}

LOGPROBS = tuple(
    Fault(f"log-probs {name}", meaning, "log-probs", partial(_likely, items=items))
    for name, (meaning, items) in _LOGPROBS.items()
)

# answers


def _says(asked: Asked, said: Said, *, text: str) -> Reply:
    return reply(asked, replace(said, text=text, items=said.items and spelled(text, -0.02)))


def _megabyte(asked: Asked, said: Said) -> Reply:
    return reply(asked, replace(said, text="word " * 210_000, items=None))


def _other_model(asked: Asked, said: Said) -> Reply:
    return reply(asked, replace(said, model="another-model"))


def _without_choices(asked: Asked, said: Said) -> Reply:
    empty = {"choices": []} if asked.protocol == "openai" else {"message": None}
    return written(asked, [{**frame, **empty} for frame in frames(asked, said)])


def _several(asked: Asked, said: Said) -> Reply:
    """A second choice beside the first; in a stream each has frames of its own."""
    other = frames(asked, Said.of("Sydney, I should think."))
    ours = frames(asked, said)
    second = [[{**choice, "index": 1} for choice in frame["choices"]] for frame in other]
    if asked.form == "plain":
        return written(asked, [{**ours[0], "choices": [*ours[0]["choices"], *second[0]]}])
    pairs = zip(ours[:-1], second, strict=False)
    mixed = [part for mine, its in pairs for part in ({**mine, "choices": its}, mine)]
    return written(asked, [*mixed, ours[-1]])


def _calls(asked: Asked, said: Said, *, arguments: object) -> Reply:
    return reply(asked, replace(said, text="", items=None, arguments=arguments))


def _strange_content(asked: Asked, said: Said) -> Reply:
    spoilt = {"role": "assistant", "content": 7}
    parts = frames(asked, said)
    at = 0 if asked.form == "plain" else 1
    if asked.protocol == "ollama":
        parts[at] = {**parts[at], "message": spoilt}
    else:
        field = "message" if asked.form == "plain" else "delta"
        choice = {**parts[at]["choices"][0], field: spoilt}
        parts[at] = {**parts[at], "choices": [choice]}
    return written(asked, parts)


ANSWERS = (
    Fault("empty answer", "no text", "answers", partial(_says, text="")),
    Fault("white space", "spaces and line ends", "answers", partial(_says, text=" \n\t \n")),
    Fault("a megabyte", "an answer of a megabyte", "answers", _megabyte),
    Fault("half a character", "a lone surrogate, as of an emoji that was cut", "answers",
          partial(_says, text="Canberra \ud83d")),
    Fault("NUL", "a NUL in the text", "answers", partial(_says, text="Canberra \0 it is")),
    Fault("another model", "the reply names a model that was not asked", "answers", _other_model),
    Fault("no choices", "no answer in the reply", "answers", _without_choices),
    Fault("several choices", "a second answer beside the first", "answers", _several,
          protocols=("openai",)),
    Fault("content is a number", "7 instead of a text", "answers", _strange_content),
    Fault("arguments half", "a tool call with half a JSON", "answers",
          partial(_calls, arguments='{"city": "Can')),
    Fault("arguments a list", "a tool call with a list", "answers",
          partial(_calls, arguments=["Canberra"])),
    Fault("arguments of another tool", "a tool call that the tool does not understand", "answers",
          partial(_calls, arguments='{"planet": 7}')),
)  # fmt: skip

# redirects


def _moved(status: int, asked: Asked, said: Said, *, to: str | None = None) -> Reply:
    del said
    path = "/v1/chat/completions" if asked.protocol == "openai" else "/api/chat"
    where = f"{asked.elsewhere}{path}" if to is None else to
    return Reply((b"moved",), status=status, content_type="text/plain",
                 headers={"location": where})  # fmt: skip


REDIRECTS = (
    *(
        Fault(f"redirect {status}", "to another server", "redirects", partial(_moved, status))
        for status in (301, 302, 303, 307, 308)
    ),
    Fault("redirect to itself", "in a circle", "redirects", partial(_moved, 307, to="")),
    Fault("redirect to a file", "to file:///etc/passwd", "redirects",
          partial(_moved, 307, to="file:///etc/passwd")),
)  # fmt: skip
