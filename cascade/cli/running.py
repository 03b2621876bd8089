"""Models at work: `cascade ask`, `batch`, `serve`, and `doctor`, which looks for them."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import ExitStack, aclosing
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Argument, Option

from cascade.cli.options import AtOnce, Models, PolicyOptions, System, at_once, must_be_file
from cascade.cli.program import Interrupted, as_json, busy, give, printable, say, screen
from cascade.errors import CascadeError, ConfigurationError, InputError
from cascade.events import Decided, Provisional, Token

if TYPE_CHECKING:
    from cascade.api import Cascade
    from cascade.jobs import Done, Row
    from cascade.ledger.entries import LedgerEntry


KEYS = {
    "openai": "OPENAI_API_KEY",
    "anthropic": "ANTHROPIC_API_KEY",
    "google_genai": "GOOGLE_API_KEY",
    "mistralai": "MISTRAL_API_KEY",
}
"""Environment variables with the keys of hosted providers."""


def ask(
    question: Annotated[str, Argument(help="'-' reads it from standard input.")],
    *,
    system: System = None,
    local_only: Annotated[bool, Option(help="Only models on this machine, even in doubt.")] = False,
    models: Models,
    policy: PolicyOptions,
) -> None:
    """Ask one question: the small model drafts, the large one answers if it has to.

    A terminal shows drafts and decisions as they come.
    """
    try:
        text = question if question != "-" else sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        told = f"standard input is not UTF-8 (byte {error.start}): convert it first"
        raise InputError(f"{told}, `iconv -f latin1 -t utf-8`.") from error
    messages: Any = [("system", system), ("human", text)] if system else text
    watched = sys.stderr.isatty() and not as_json()
    spent: list[LedgerEntry] = []
    result: Any = None
    with ExitStack() as opened:
        try:
            with busy("getting ready"):
                cascade = models.open(opened, local_only=local_only, **vars(policy))
                cascade.kernel.ledger.listeners.append(spent.append)
            for result in cascade.stream(messages, show="optimistic" if watched else "final"):
                _show(result)
            if watched:
                say("")
        except KeyboardInterrupt:
            from cascade.ledger.entries import LedgerView  # noqa: PLC0415 - heavy

            interrupted = Interrupted("interrupted")
            interrupted.ledger = LedgerView(spent)
            raise interrupted from None
    of_ledger = ("cost_usd", "cost_basis", "saved_usd", "saved_basis")
    document = {name: value for name, value in result if name not in ("message", "parsed")}
    document |= {name: getattr(result.ledger, name) for name in of_ledger}
    told = f"\n{result.tier}: {result.decision.reason}\n{result.ledger.table()}"
    give({**document, "ledger": list(result.ledger)}, result.answer, told)


def _show(event: Any) -> None:
    if isinstance(event, Provisional | Token):
        screen().print(printable(event.text), style="dim", end="", markup=False)
    elif isinstance(event, Decided):
        say(f"\n{event.tier}: {event.decision.action}, {event.decision.reason}")


def batch(
    source: Annotated[Path, Argument(help="CSV, JSONL or Parquet, or a folder of such files.")],
    *,
    output: Annotated[Path, Option(help="Where the answers go: .csv or .jsonl.")],
    column: Annotated[str | None, Option(help="Column with the questions.")] = None,
    prefix: Annotated[str, Option(help="Before the names of the columns added.")] = "",
    system: System = None,
    budget_usd: Annotated[Decimal | None, Option(help="Stop at so many dollars.", min=0)] = None,
    concurrency: AtOnce = None,
    engine: Annotated[Literal["local", "ray"], Option(help="In-process or Ray cluster.")] = "local",
    provider_batch: Annotated[bool, Option(help="Large model by batch API, half price.")] = False,
    ledger: Annotated[str | None, Option(help="Ledger to keep: sqlite:///ledger.db, …")] = None,
    fresh: Annotated[bool, Option(help="Forget what was done before, and pay anew.")] = False,
    models: Models,
    policy: PolicyOptions,
) -> None:
    """Answer every row of a file. Interrupted, the same command goes on where it was."""
    from cascade import jobs  # noqa: PLC0415 - heavy, keeps --help fast

    if engine == "ray" and (provider_batch or budget_usd is not None):
        told = "--provider-batch and --budget-usd are of the local engine"
        raise ConfigurationError(f"{told}: leave them or --engine ray out.")
    must_be_file("--output", output, source)
    jobs.check_output(output)
    if unreadable := jobs.check_rows(source, column, prefix=prefix):
        told = f"{'; '.join(unreadable[:5])}: {len(unreadable):,} such rows are not asked"
        say(f"{told} and cost nothing.", style="yellow")
    rows = partial(jobs.read_rows, source, column, system)
    with ExitStack() as opened:
        make: Any = partial(models.open, ledger=ledger, **vars(policy))
        cascade = make(opened)
        workers = concurrency or at_once(cascade, 16)
        _check_system(cascade, rows())
        made_with = jobs.made_with(cascade, system=system)
        path = output.with_name(f"{output.name}.journal")
        journal = opened.enter_context(jobs.Journal(path, made_with, fresh=fresh))
        if engine == "ray":
            from cascade.jobs.ray_data import run_on_ray  # noqa: PLC0415 - an extra

            done = run_on_ray(make, rows(), journal, concurrency=workers)
        else:
            limits: Any = {"concurrency": workers, "budget_usd": budget_usd}
            if provider_batch:
                from cascade.jobs.provider import BatchJob  # noqa: PLC0415 - seldom

                limits["kind"] = BatchJob
            run = partial(jobs.run_job, cascade, rows(), journal, **limits)
            done = asyncio.run(_watched(run))
        written = jobs.write_output(output, rows(), journal, prefix=prefix)
    _report(done, output, written, len(unreadable))


def _check_system(cascade: Cascade, rows: Iterable[Row]) -> None:
    """Refuse a job whose prompts the calibration does not know; say so, where only some are."""
    from cascade.questions import to_messages  # noqa: PLC0415 - heavy

    made = cascade.calibration
    if made is None or not made.binds_prompts:
        return
    asked = (row.question for row in rows if row.question is not None)
    found = Counter(made.mismatch(to_messages(question)) for question in asked)
    n, fitting = found.total(), found.pop(None, 0)
    why = f"without a confidence, since {' and '.join(map(str, found))}"
    told = f"{n - fitting:,} of {n:,} rows have drafts {why}, and are escalated."
    if found and fitting:
        say(told, style="yellow")
    elif found:
        raise ConfigurationError(
            f"{told} Give the system message with --system, examples in a column `messages` (both "
            "are in the cascade.yaml of `cascade try`), or leave --calibration out."
        )


async def _watched(run: Callable[..., Awaitable[Done]]) -> Done:
    """A job that shows how far it is, and that Ctrl-C tells to stop, a second time at once."""
    stop, loop, words = asyncio.Event(), asyncio.get_running_loop(), (signal.SIGINT, signal.SIGTERM)

    def end() -> None:
        stop.set()
        for word in words:
            loop.remove_signal_handler(word)
        say("the rows under way are ended; Ctrl-C breaks them off, and they may be paid again")

    def show(done: Done) -> None:
        counts = f"{done.rows:,} rows, {done.escalated:,} escalated, {done.failed:,} failed"
        line.update(f"{counts}, ${done.spent_usd:.4f}")

    for word in words:
        loop.add_signal_handler(word, end)
    with busy("getting ready") as line:
        return await run(stop=stop, progress=show)


def _report(done: Done, output: Path, written: int, unreadable: int) -> None:
    from cascade.evaluation.render import counted, dollars  # noqa: PLC0415 - heavy
    from cascade.jobs.engine import INTERRUPTED  # noqa: PLC0415

    spent = None if done.unknown and not done.spent_usd else done.spent_usd
    paid, saved = ("unknown" if x is None else dollars(x) for x in (spent, done.saved_usd))
    known = f", {done.unknown:,} at an unknown cost" if done.unknown else ""
    told = (
        f"{output}: {counted(written, 'row')}; {done.answered:,} answered now, "
        f"{done.resumed:,} before, {done.escalated:,} escalated, {done.failed:,} failed\n"
        f"spent {paid}{known}; saved {'≈ ' * done.estimated}{saved}"
    )
    if done.waiting:
        told += f"\n{done.waiting:,} rows wait for their provider: run the same command later."
    give({**asdict(done), "spent_usd": spent, "written": written}, "", told)
    again, failed = "Run the same command again", done.failed - unreadable
    if done.stopped is not None:
        more = ", with a larger --budget-usd," if "the budget" in done.stopped else ""
        ended = Interrupted if done.stopped == INTERRUPTED else CascadeError
        raise ended(f"{done.stopped}. {again}{more} to go on.")
    if failed:
        why = f"failed, the last by {done.last_error}"
        raise CascadeError(f"{counted(failed, 'row')} {why} {again} to ask anew.")
    if unreadable:
        why = "without a question: mend the file"
        raise CascadeError(f"{counted(unreadable, 'row')} {why}. {again}.")


def serve(
    config: Annotated[Path, Argument(help="The configuration, cascade.yaml; see docs/service.md.")],
    *,
    check: Annotated[bool, Option(help="Say what would run, and leave.")] = False,
    no_auth: Annotated[bool, Option(help="Ask for no key; on loopback only.")] = False,
    port: Annotated[int | None, Option(help="Port to listen on, instead of listen.port.")] = None,
) -> None:
    """Serve cascades to clients of OpenAI, Anthropic and Ollama, with keys, budgets and a page."""
    from cascade import service  # noqa: PLC0415 - heavy

    overrides: dict[str, Any] = {"auth": False} if no_auth else {}
    if port is not None:
        overrides["listen"] = {"port": port}
    configured = service.read_config(config, overrides=overrides)
    if check:
        lines = service.describe(configured)
        give({"serves": lines}, "\n".join(lines))
    else:
        service.serve(configured)


@dataclass(frozen=True, slots=True)
class Check:
    """One finding: `ok`, `warning` (works, with a limit) or `missing`."""

    name: str
    status: Literal["ok", "warning", "missing"]
    found: str
    to_do: str = ""

    def __str__(self) -> str:
        then = f" → {self.to_do}" if self.to_do else ""
        mark = {"ok": "✓", "warning": "!", "missing": "✗"}[self.status]
        return f"{mark} {self.name}: {self.found}{then}"


def doctor(
    model: Annotated[list[str] | None, Option(help="Model to ask one word; repeatable.")] = None,
) -> None:
    """Look for models, keys, prices and log-probs. Fails when a named model does not work."""
    with busy("looking around …"):
        checks = asyncio.run(_look(model or []))
    give(checks, "\n".join(map(str, checks)))
    for check in checks:
        if check.name in (model or ()) and check.status == "missing":
            raise CascadeError(f"{check.name} {check.found}: {check.to_do}")


async def _look(models: list[str]) -> list[Check]:
    found = [*await _check_model(Models.small), *await _check_ollama(), *_check_keys()]
    for spec in models:
        if spec not in {check.name for check in found}:
            found += await _check_model(spec)
    return found


async def _check_model(spec: str) -> list[Check]:
    from langchain_core.messages import HumanMessage  # noqa: PLC0415 - heavy, keeps --help fast

    from cascade.ledger.prices import has_price  # noqa: PLC0415
    from cascade.models import Request  # noqa: PLC0415
    from cascade.tiers import Tier, open_tier  # noqa: PLC0415

    asked = Request((HumanMessage("Say yes."),), max_tokens=1, timeout_s=60)
    try:
        tier = open_tier(Tier(spec, timeout_s=60))
        if tier.model.returns_logprobs:
            asked = replace(asked, logprobs=True, top_logprobs=2)
        async with aclosing(tier.model) as model:
            answer = await model.complete(asked)
    except CascadeError as error:
        return [Check(spec, "missing", "does not answer", str(error))]
    took = f"answers in {answer.latency_ms / 1000:.2f} s"
    limit = "as a small model it checks itself by one more call; log-probs would be free"
    found = Check(spec, "warning", f"{took}, without log-probs", limit)
    if answer.logprobs:
        found = Check(spec, "ok", f"{took}, with log-probs")
    how = "--prices FILE (docs/prices.md); in Python Tier(…, price=Price(…))"
    price = Check(f"price of {spec}", "warning", "not set", how)
    if has_price(tier.pricing, busy_ms=1.0):
        price = Check(price.name, "ok", tier.pricing.source)
    return [found, price]


async def _check_ollama() -> list[Check]:
    from httpx import AsyncClient, HTTPError  # noqa: PLC0415 - heavy, keeps --help fast

    from cascade.models.http import without_secrets  # noqa: PLC0415
    from cascade.models.ollama import server_address  # noqa: PLC0415

    to_do = "start it with `ollama serve`, or set OLLAMA_HOST; see ollama.com for installing"
    host = "OLLAMA_HOST"
    try:
        host = without_secrets(address := server_address(None))
        async with AsyncClient(timeout=5.0) as client:
            listed = (await client.get(f"{address}/api/tags")).raise_for_status().json()["models"]
        names = [each["model"] for each in sorted(listed, key=lambda each: each.get("size") or 0)]
    except (HTTPError, OSError, ValueError, LookupError, TypeError) as error:
        said = str(error).partition("\n")[0] or type(error).__name__
        return [Check("ollama", "missing", f"no Ollama answers at {host} ({said})", to_do)]
    if not names:
        return [Check("ollama", "warning", f"no models at {host}", "ollama pull qwen2.5:3b")]
    server = Check("ollama", "ok", f"at {host}: {', '.join(names)}")
    return [server, *await _check_model(f"ollama:{names[0]}")]


def _check_keys() -> Iterator[Check]:
    """Keys of hosted providers, whose values are never shown, and the packages that bring them."""
    for provider, variable in KEYS.items():
        package = f"langchain_{provider}"
        if not os.environ.get(variable):
            yield Check(provider, "missing", f"{variable} is not set", f"export {variable}=…")
        elif provider != "openai" and importlib.util.find_spec(package) is None:
            how = f"pip install {package.replace('_', '-')}"
            yield Check(provider, "warning", f"{variable} is set, no adapter", how)
        else:
            yield Check(provider, "ok", f"{variable} is set")
