"""Scorers by name: `exact`, `numeric:1%`, `judge:openai:gpt-5.1`."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable

from cascade.errors import ConfigurationError
from cascade.evaluation.scorers.base import FunctionScorer, ScoreFunction, Scorer, TextScorer
from cascade.evaluation.scorers.choice import choice
from cascade.evaluation.scorers.code import CodeScorer
from cascade.evaluation.scorers.fields import JsonScorer
from cascade.evaluation.scorers.judge import JudgeScorer
from cascade.evaluation.scorers.numeric import NumericScorer
from cascade.evaluation.scorers.text import contains_all, contains_any, exact
from cascade.models import open_model

SCORERS = {
    "exact": "the same answer, apart from case, punctuation and articles",
    "numeric": "the same number; numeric:0.01 within 0.01, numeric:1% within one per cent",
    "choice": "the same letter of a multiple choice",
    "contains": "the reference stands in the answer; contains:all for all of a list",
    "json": "the same fields; json:share for their share, json:name,total for some of them",
    "code": "Python that passes the tests; code:30 gives them 30 seconds",
    "judge": "a model decides: judge:openai:gpt-5.1",
}
"""Name → what is right, for people."""


def get_scorer(spec: str) -> Scorer:
    """The scorer of a name, with what follows the colon as its setting.

    Raises:
        ConfigurationError: there is no such scorer, or it has no such setting; the message lists
            what there is. For `judge:`, whatever opening the model raises.
    """
    name, colon, setting = (part.strip() for part in spec.partition(":"))
    maker = _MAKERS.get(name.casefold())
    if maker is None:
        near = difflib.get_close_matches(name.casefold(), SCORERS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigurationError(f"there is no scorer {spec!r}.{hint}\n{_listing()}")
    if colon and not setting:
        raise _no_setting(spec)
    return maker(spec.strip(), setting)


def as_scorer(scorer: str | Scorer | ScoreFunction) -> Scorer:
    """A scorer from its spec, or from a function `(answer, reference) -> float`, sync or async.

    Raises:
        ConfigurationError: it is neither.
    """
    if isinstance(scorer, str):
        return get_scorer(scorer)
    if isinstance(scorer, Scorer):
        return scorer
    if callable(scorer):
        return FunctionScorer(scorer)
    raise ConfigurationError(
        f"a scorer is a name or a function (answer, reference) -> float, not {scorer!r}."
    )


def _listing() -> str:
    return "\n".join(f"  {name:9}{what}" for name, what in SCORERS.items())


def _no_setting(spec: str) -> ConfigurationError:
    name = spec.partition(":")[0].strip().casefold()
    return ConfigurationError(f"the scorer {spec!r} cannot be set so. {name}: {SCORERS[name]}.")


def _exact(spec: str, setting: str) -> Scorer:
    if setting:
        raise _no_setting(spec)
    return TextScorer(spec, exact)


def _choice(spec: str, setting: str) -> Scorer:
    if setting:
        raise _no_setting(spec)
    return TextScorer(spec, choice)


def _contains(spec: str, setting: str) -> Scorer:
    if setting not in {"", "any", "all"}:
        raise _no_setting(spec)
    return TextScorer(spec, contains_all if setting == "all" else contains_any)


def _numeric(spec: str, setting: str) -> Scorer:
    if not setting:
        return TextScorer(spec, NumericScorer())
    relative = setting.endswith("%")
    tolerance = _positive(spec, setting.removesuffix("%"))
    return TextScorer(spec, NumericScorer(tolerance / 100 if relative else tolerance, relative))


def _json(spec: str, setting: str) -> Scorer:
    if setting in {"share", "all"}:
        return TextScorer(spec, JsonScorer(share=setting == "share"))
    only = tuple(path.strip() for path in setting.split(",") if path.strip())
    if setting and not only:
        raise _no_setting(spec)
    return TextScorer(spec, JsonScorer(only=only))


def _code(spec: str, setting: str) -> Scorer:
    return CodeScorer(timeout_s=_positive(spec, setting)) if setting else CodeScorer()


def _judge(spec: str, setting: str) -> Scorer:
    if not setting:
        raise ConfigurationError(f"the scorer {spec!r} needs a model: judge:openai:gpt-5.1.")
    return JudgeScorer(open_model(setting))


def _positive(spec: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise _no_setting(spec) from None
    if not (0 < value < math.inf):
        raise _no_setting(spec)
    return value


_MAKERS: dict[str, Callable[[str, str], Scorer]] = {
    "exact": _exact,
    "numeric": _numeric,
    "choice": _choice,
    "contains": _contains,
    "json": _json,
    "code": _code,
    "judge": _judge,
}
