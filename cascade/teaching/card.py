"""The data card of a training file: what is in it, where it is from, and how it goes away again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cascade._version import __version__
from cascade._words import counted, percent
from cascade.teaching.exporting import TRAINING, VALIDATION, Exported
from cascade.teaching.forms import Form
from cascade.teaching.terms import terms_of

_READ_BY: Mapping[Form, str] = {
    "messages": """\
TRL: `SFTTrainer`, conversational language modelling. Axolotl:

```yaml
datasets:
  - path: {path}
    ds_type: json
    type: chat_template
    field_messages: messages
    roles_to_train: [assistant]
```""",
    "prompt_completion": "TRL: `SFTTrainer`, conversational prompt-completion; it "
    "learns the completion alone.",
    "preference": """\
TRL: `DPOTrainer`, conversational preference. Axolotl:

```yaml
rl: dpo
datasets:
  - path: {path}
    ds_type: json
    split: train
    type: chat_template.default
    field_messages: prompt
```""",
}


def card_of(done: Exported, files: Mapping[str, Path], store: str = "STORE") -> str:
    """The card as Markdown. It repeats no text of any lesson.

    Args:
        done: what was chosen.
        files: by purpose.
        store: the address of the lessons without a password, for the command of deletion.
    """
    rows = done.rows
    days = sorted(each.lesson.at for each in rows)
    period = f"{days[0]:%Y-%m-%d} to {days[-1]:%Y-%m-%d}" if days else "none"
    path = files[TRAINING].name
    parts = [
        f"# Data card of {path}",
        f"Written by `cascade teach export` ({__version__}) of {counted(done.lessons, 'lesson')}; "
        f"questions and answers from {period}.",
        "## What is in it",
        _table(("file", "rows"), _files(done, files)),
        f"Form: `{done.options.form}`. {_READ_BY[done.options.form].format(path=path)}",
        _table(("of", "value", "rows"), _counts(done)),
        "Lessons are a **selected sample**: questions that the small model could not do, or that "
        "were audited. They are not how questions are distributed.",
        "## What is not",
        _table(("why", "lessons"), _removed(done)),
        _evaluation(done),
        "## Models and terms",
        _table(("model", "rows", "training", "stated where", "as of"), _terms(done)),
        "Who uses this file has to keep to these terms; nothing was checked but what was stated.",
        "## People",
        f"{_masked(done)} In the texts control tokens of chat templates are spelled out, and the "
        "store's own redaction was applied when lessons were kept. No user, tenant or run is named "
        "in a row.",
        "What is deleted from the lessons stays in a file that was written before. "
        f"`cascade lessons delete {store} --user …` names this file; then write it anew, delete "
        "this one, and train again where that is owed. The same holds for the lessons' retention: "
        "a file does not grow old by itself.",
        f"Seed {done.options.seed}: the same lessons give the same files.",
    ]
    return "\n\n".join(parts)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _files(done: Exported, files: Mapping[str, Path]) -> list[tuple[str, str]]:
    parts = ((TRAINING, done.train), (VALIDATION, done.validation))
    return [(files[name].name, f"{len(rows):,}") for name, rows in parts if name in files]


def _counts(done: Exported) -> Iterable[tuple[str, str, str]]:
    for what in ("task", "origin", "answer_model"):
        counts = Counter(str(getattr(each.lesson, what)) for each in done.rows)
        for value, n in counts.most_common():
            yield what, value, f"{n:,}"
    turned = sum(each.turned for each in done.rows)
    if turned:
        yield "audit", "the draft is the better answer", f"{turned:,}"


def _removed(done: Exported) -> list[tuple[str, str]]:
    return [(why, f"{n:,}") for why, n in done.removed.most_common() if n] or [("nothing", "0")]


def _evaluation(done: Exported) -> str:
    if not done.evaluation:
        return "**No evaluation set was given**, so that none is kept out of this file."
    return (
        f"No row holds one of {counted(done.evaluation, 'question')} of the evaluation: not the "
        f"same words, not within a text, not nearly (three-word rows, Jaccard index "
        f"{done.options.evaluation_alike:g}), and no {done.options.ngram} words in a row, but for "
        "rows of words that are in more than ten lessons."
    )


def _terms(done: Exported) -> Iterable[tuple[str, str, str, str, str]]:
    for model, n in Counter(each.lesson.answer_model for each in done.rows).most_common():
        of_model = [each.lesson for each in done.rows if each.lesson.answer_model == model]
        given = [*(lesson.terms for lesson in of_model), terms_of(model, done.terms)]
        sources = "; ".join(sorted({terms.source for terms in given if terms.source})) or "–"
        days = sorted(str(terms.as_of) for terms in given if terms.as_of)
        yield model, f"{n:,}", "permitted, as stated", sources, (days or ["–"])[0]


def _masked(done: Exported) -> str:
    n = sum(each.masked for each in done.rows)
    share = percent(n / len(done.rows)) if done.rows else "0 %"
    return (
        f"Addresses, keys and long numbers were masked in the questions of {n:,} rows ({share}); "
        "answers that held any were left out."
    )
