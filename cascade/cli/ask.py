"""`cascade ask`: one question through a cascade."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cascade._printable import printable
from cascade.cli.completing import EMBEDDED
from cascade.cli.console import busy, err, fits, print_json, reports_errors, spending, watched
from cascade.cli.pairing import Large, PriceOfError, Small, Threshold, pair
from cascade.errors import InputError

if TYPE_CHECKING:
    from cascade.api import Cascade
    from cascade.result import CascadeResult
    from cascade.tiers import OpenTier

Stays = Literal["answer", "abstain"]
"""`cascade.state.Stay`, whose module is heavy: `--help` stays fast."""

EXAMPLE = (
    "Example: cascade ask 'What is the capital of Australia?' "
    "--small ollama:qwen2.5:3b --large openai:gpt-5.1 --price-of-error 0.05"
)


@reports_errors
def ask(
    question: Annotated[
        str | None, typer.Argument(help="The question; '-' reads it from standard input.")
    ] = None,
    *,
    file: Annotated[
        Path | None, typer.Option(help="Read the question from a UTF-8 text file.")
    ] = None,
    small: Small = EMBEDDED,
    large: Large = None,
    system: Annotated[str | None, typer.Option(help="A system message.")] = None,
    threshold: Threshold = None,
    price_of_error: PriceOfError = None,
    max_tokens: Annotated[int | None, typer.Option(help="Limit of the answer's length.")] = None,
    local_only: Annotated[
        Stays | None,
        typer.Option(
            help="Ask no model that is not on this machine. A draft that is not good enough is the "
            "answer all the same, or with 'abstain' there is none."
        ),
    ] = None,
    table: Annotated[bool, typer.Option(help="Show what each node cost and saved.")] = True,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print the answer, and nothing else.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Ask one question: the small model drafts, the large one answers if it has to.

    A terminal shows the draft, its confidence and the decision as they come, on stderr.
    """
    text = _read(question, file)
    messages = [("system", system), ("human", text)] if system else text
    with nullcontext() if json or quiet else busy("getting ready"):
        cascade = pair(
            small,
            large,
            threshold=threshold,
            price_of_error=price_of_error,
            max_tokens=max_tokens,
            local_only=local_only or False,
        )
    followed = watched() and not (json or quiet)
    with spending():
        result = _follow(cascade, messages) if followed else cascade.invoke(messages)
    if json:
        print_json(_document(result, cascade.tiers, local_only))
        return
    _show(result, followed=followed, table=table and not quiet, quiet=quiet)


def _follow(cascade: Cascade, messages: Any) -> CascadeResult:
    from cascade.cli.live import follow  # noqa: PLC0415 - heavy

    return follow(cascade, messages)


def _show(result: CascadeResult, *, followed: bool, table: bool, quiet: bool) -> None:
    if followed:
        err.print()
    if not result.abstained:
        # Piped as it is; on a terminal a model could move the cursor and write to the clipboard.
        terminal = sys.stdout.isatty()
        answer = printable(result.answer, keep="\n\t") if terminal else result.answer
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()
    if not (followed or quiet):
        who = "no answer" if result.abstained else result.tier
        err.print(f"\n{who}: {result.decision.reason}", style="dim", markup=False)
    if table and fits(text := result.ledger.table()):
        err.print("\n" * followed + text, style="dim", markup=False)


def _document(
    result: CascadeResult, tiers: Sequence[OpenTier], local_only: Stays | None
) -> dict[str, Any]:
    here = {tier.name: "here" if tier.local else "elsewhere" for tier in tiers}
    return {
        "answer": result.answer,
        "tier": result.tier,
        "escalated": result.escalated,
        "confidence": result.confidence,
        "calibrated": result.calibrated,
        "degraded": result.degraded,
        "abstained": result.abstained,
        "local_only": local_only,
        "answered": None if result.abstained else here[result.tier],
        "decision": result.decision,
        "cost_usd": result.ledger.cost_usd,
        "cost_basis": result.ledger.cost_basis,
        "saved_usd": result.ledger.saved_usd,
        "saved_basis": result.ledger.saved_basis,
        "run_id": result.run_id,
        "ledger": list(result.ledger),
    }


def _read(question: str | None, file: Path | None) -> str:
    if (question is None) == (file is None):
        raise InputError("give the question as an argument, or --file, and not both.")
    if file is None and question != "-":
        return str(question)
    name = "standard input" if file is None else str(file)
    try:
        return (sys.stdin.buffer.read() if file is None else file.read_bytes()).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name} is not UTF-8 (byte {error.start}): convert it first, iconv -f latin1 -t utf-8."
        ) from error
    except OSError as error:
        raise InputError(f"{name} cannot be read: {error.strerror}.") from error
