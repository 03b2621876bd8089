"""Multiple choice: the letter that an answer settles on."""

from __future__ import annotations

import re

from cascade.confidence.answers import normalise
from cascade.errors import InputError
from cascade.evaluation.scorers.base import Reference, texts_of

_LETTER = r"[A-Za-z]"
_WRAPPED = rf"(?:\*\*|\\boxed\{{|\\text\{{|[(\[\"'`])*\s*({_LETTER})(?![A-Za-z'’])"
_STATED = re.compile(
    rf"(?:answer|option|choice)\b\s*(?:is|:|=|would be)?\s*(?:is|:)?\s*(?:option|choice)?\s*"
    rf"{_WRAPPED}",
    re.IGNORECASE,
)
_BOXED = re.compile(rf"\\boxed\{{\s*(?:\\text\{{)?\(?({_LETTER})\)?\}}")
_LEADING = re.compile(rf"^\s*(?:\*\*)?\(?\[?({_LETTER})(?:[.):\]]|\*\*|\s*$|\s*\n)")
_MARKED = re.compile(r"\(([A-Z])\)|\*\*([A-Z])\*\*|(?:^|\n)\s*([A-Z])[.)]")
_CAPITAL = re.compile(r"(?<![\w'’])([B-HJ-Z])(?![\w'’])")
_OPTION = re.compile(rf"^\s*[(\[]?({_LETTER})[.):\]]\s*(\S.*?)\s*$", re.MULTILINE)


def choice(answer: str, reference: Reference, question: str = "") -> float:
    """1 when the answer settles on the letter of the reference.

    Read in this order: a boxed letter, the last "answer is B", a letter at the beginning (`B.`,
    `(b)`), the last marked letter, the text of an option as the question lists them
    (`A. …` on lines of their own), the last capital that stands alone.

    Args:
        answer: as the model gave it.
        reference: the letter, or the text of an option; or a list of them.
        question: the prompt with the options.

    Raises:
        InputError: the reference is neither a letter nor the text of an option.
    """
    options = options_in(question)
    wanted = {_letter_of(text, options) for text in texts_of(reference, "choice")}
    return float(letter_in(answer, options) in wanted)


def options_in(question: str) -> dict[str, str]:
    """The options of a question: letter → text. The last list of the prompt, without examples."""
    options: dict[str, str] = {}
    for letter, text in _OPTION.findall(question):
        if letter.upper() == "A":
            options = {}
        options[letter.upper()] = text
    return options if len(options) > 1 else {}


def letter_in(answer: str, options: dict[str, str]) -> str | None:
    """The letter that an answer settles on, or None when it names none."""
    candidates = (
        _last(_BOXED, answer),
        _last_but_articles(answer, options),
        _last(_LEADING, answer),
        _last(_MARKED, answer),
        _by_text(answer, options),
        _last(_CAPITAL, answer),
    )
    for letter in candidates:
        if letter is not None and (not options or letter in options):
            return letter
    return None


def _last(pattern: re.Pattern[str], text: str) -> str | None:
    matches = list(pattern.finditer(text))
    return next(group for group in matches[-1].groups() if group).upper() if matches else None


def _last_but_articles(answer: str, options: dict[str, str]) -> str | None:
    """The last stated letter; "the answer is a dog" states none."""
    for match in reversed(list(_STATED.finditer(answer))):
        rest = answer[match.end() :].split("\n", maxsplit=1)[0]
        is_word = match[1] in "aAI" and re.match(r"\s+[a-z]", rest)
        if not is_word and (not options or match[1].upper() in options):
            return match[1].upper()
    return None


def _by_text(answer: str, options: dict[str, str]) -> str | None:
    said = normalise(answer)
    equal = [letter for letter, text in options.items() if said and normalise(text) == said]
    if equal:
        return equal[0]
    spoken = " ".join(answer.casefold().split())
    inside = {
        letter: text.casefold().strip(". ")
        for letter, text in options.items()
        if re.search(rf"(?<!\w){re.escape(text.casefold().strip('. '))}(?!\w)", spoken)
    }
    # Of "animal" and "living animal" the longer was meant; two that are apart say nothing.
    whole = [
        letter
        for letter, text in inside.items()
        if not any(text in other for other in inside.values() if other != text)
    ]
    return whole[0] if len(whole) == 1 else None


def _letter_of(text: str, options: dict[str, str]) -> str:
    bare = text.strip().strip("()[].").strip()
    if len(bare) == 1 and bare.isalpha():
        return bare.upper()
    for letter, option in options.items():
        if normalise(option) == normalise(text):
            return letter
    raise InputError(
        f"the reference {text!r} is neither a letter nor one of the options of the question "
        f"({', '.join(options) or 'none found: write them as lines, A. …'})."
    )
