"""Is a cascade worth it: `cascade plan`, `evaluate`, `calibrate`, `try` and `demo`."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from cascade.cli.options import (
    EMBEDDED,
    AtOnce,
    CalibrationFile,
    LargeName,
    Models,
    Page,
    PriceOfError,
    Small,
    SmallName,
    System,
    at_once,
    must_be_file,
    write_page,
)
from cascade.cli.program import Interrupted, busy, give, say
from cascade.errors import CascadeError, ConfigurationError

if TYPE_CHECKING:
    from cascade.api import Cascade
    from cascade.calibrate import CalibrationFit, Collected
    from cascade.evaluation.recordings import Example
    from cascade.evaluation.verdict import Evaluation

DEMO = Path(__file__).parents[1] / "demo"
"""The demo's questions, after examples of their kind, and a real large model's answers."""

ASSUMED = (
    "the small model costs $0.05 per hour that it computes, as a cloud asks for two shared cores",
    "the large one $0.1 per million tokens, the list price of Qwen1.5-0.5B at Together",
)

ANSWERS = "transcripts.jsonl"  # of both models, in a folder of `try` or `demo`

SHARE: dict[str, Any] = {"min": 0.001, "max": 0.999}

MaxHarm = Annotated[list[float] | None, Option(help="Certify P(accepted & wrong) ≤ this.", **SHARE)]


def _tokens(typed: str) -> tuple[Decimal, Decimal]:
    with suppress(ValueError, InvalidOperation):
        read, written = map(Decimal, typed.split(","))
        return read, written
    raise ConfigurationError(f"{typed!r}: write two prices with a comma, such as 1.25,10.")


TokenPrice = Annotated[Any, Option(parser=_tokens, metavar="IN,OUT", help="Dollars per 1M tokens.")]


@dataclass(frozen=True, kw_only=True)
class RequestOptions:
    """A request: its prices, tokens and seconds."""

    small: SmallName = None
    large: LargeName = None
    small_price: TokenPrice = None
    large_price: TokenPrice = None
    hourly: Annotated[Decimal | None, Option(help="Dollars per hour of small's machine.")] = None
    utilisation: Annotated[Decimal, Option(help="Share of the time it computes.")] = Decimal(1)
    kw: Annotated[Decimal | None, Option(help="Kilowatts that it draws while it computes.")] = None
    kwh_price: Annotated[Decimal | None, Option(help="Dollars per kWh.")] = None
    input_tokens: Annotated[int | None, Option(min=0, help="Tokens of a request.")] = None
    output_tokens: Annotated[int | None, Option(min=0, help="Of the small model's answer.")] = None
    large_output_tokens: Annotated[int | None, Option(min=1, help="Of the large's answer.")] = None
    busy_s: Annotated[Decimal | None, Option(min=0, help="Seconds of computing per draft.")] = None
    check_calls: Annotated[int, Option(min=0, help="Calls of a self-check without log-probs.")] = 0


@dataclass(frozen=True, kw_only=True)
class Expected:
    """Expected use."""

    accept_rate: Annotated[
        Decimal | None, Option("--accept", min=0, max=1, help="Share of drafts accepted.")
    ] = None
    accept_n: Annotated[int | None, Option(min=1, help="Of so many drafts: for intervals.")] = None
    requests: Annotated[Decimal | None, Option(min=0, help="Requests per month.")] = None
    fixed_usd: Annotated[Decimal, Option(min=0, help="Dollars per month: hardware, …")] = Decimal(0)


@dataclass(frozen=True, kw_only=True)
class Goal:
    """Goal."""

    within: Annotated[float, Option(min=0, max=0.99, help="Share of right answers to lose.")] = 0.01
    caution: Annotated[float, Option(min=0, help="Standard errors to stay below --within.")] = 0.0
    price_of_error: PriceOfError = None


@dataclass(frozen=True, kw_only=True)
class ExampleOptions:
    """Examples, and how both models are asked about them."""

    question: Annotated[str | None, Option(help="Column of the questions.")] = None
    label: Annotated[str | None, Option(help="Column of the right answers.")] = None
    system: System = None
    scorer: Annotated[str, Option(help="exact, contains, choice, numeric, json, …")] = "exact"
    signals: Annotated[list[str] | None, Option(help="Signal of confidence; repeatable.")] = None
    concurrency: AtOnce = None
    yes_up_to: Annotated[float, Option(min=0, help="Dollars to spend without asking.")] = 0.0
    yes: Annotated[bool, Option(help="Do not ask before money is spent.")] = False

    def read(self, path: Path, answers: Path) -> list[Example]:
        """The examples of a file that is not the one with their answers."""
        from cascade.evaluation import read_examples  # noqa: PLC0415 - heavy

        if answers.resolve() == path.resolve():
            told = f"--out: the answers would be recorded into {path}, which has your examples"
            raise ConfigurationError(f"{told}: give another name.")
        return read_examples(path, question=self.question, label=self.label, system=self.system)

    def open(self, models: Models, opened: ExitStack) -> Cascade:
        """A cascade whose models are both asked every question, closed with `opened`."""
        from cascade.calibrate import GIVE_UP_AFTER, SIGNALS  # noqa: PLC0415 - heavy
        from cascade.middleware import Breaker  # noqa: PLC0415

        # Every example is wanted: a server is asked until it is plain that it is gone.
        breaker: list[Any] = [Breaker(GIVE_UP_AFTER)]
        return models.open(opened, signals=self.signals or SIGNALS, middleware=breaker)

    def record(
        self, cascade: Cascade, rows: Sequence[Example], path: Path, least: int, agree: bool = False
    ) -> Collected:
        """Record what both models answer, after asking the person where it costs money."""
        from cascade.calibrate import AnswerRecorder  # noqa: PLC0415 - heavy
        from cascade.evaluation.scorers import as_scorer  # noqa: PLC0415

        recorder = AnswerRecorder(cascade.kernel, path, as_scorer(self.scorer), agree=agree)
        limits: Any = {"least": least, "concurrency": self.concurrency or at_once(cascade, 8)}
        if not self.yes and len(rows) >= least:  # else nothing is asked
            self._confirm(cascade, rows, path)
        try:
            with busy("getting ready") as line:
                limits["progress"] = lambda done: line.update(str(done))
                done = asyncio.run(recorder.record(rows, **limits))
        except KeyboardInterrupt:
            kept = path.read_bytes().count(b"\n") if path.exists() else 0
            told = f"interrupted: {kept:,} of {len(rows):,} are in {path}; the same command goes on"
            raise Interrupted(told) from None
        if done.unlabelled == done.total:
            told = "of no example is it known which answer is right: name their column, --label"
            raise ConfigurationError(f"{told}, or give another --scorer.")
        if done.failures:
            name, why = list(done.failures.items())[-1]
            say(f"failed examples: {len(done.failures)}; the next run tries them again")
            say(f"the last, {name}: {why}", style="yellow")
        if done.unlabelled:
            say(f"examples left out, since nothing says which answer is right: {done.unlabelled}")
        return done

    def _confirm(self, cascade: Cascade, rows: Sequence[Example], path: Path) -> None:
        """Ask the person where it may cost more than `yes_up_to`: a token has some 4 characters, an
        answer its limit or 200."""
        from cascade.evaluation import read_transcripts  # noqa: PLC0415 - heavy
        from cascade.ledger.prices import has_price  # noqa: PLC0415
        from cascade.state import Usage  # noqa: PLC0415

        known = {row.id for row in read_transcripts(path)} if path.exists() else set()
        left = [row for row in rows if row.id not in known]
        if not left:
            return
        text = sum(len(str(message.text)) for row in left for message in row.messages)
        checks, told, hosted = sum(s.calls for s in cascade.kernel.parts.signals), [], 0.0
        for tier, calls in zip(cascade.tiers, (1 + checks, 1), strict=True):
            read, written = text // len(left) // 4 + 16, tier.max_tokens or 200
            each = tier.pricing.cost(Usage(input_tokens=read, output_tokens=written), None)
            dollars = math.inf if each is None else float(each) * calls * len(left)
            timed = has_price(tier.pricing, busy_ms=1.0)
            unknown = "by its busy time" if timed else "has no price set"
            told.append(f"{tier.name} {unknown if each is None else f'about ${dollars:.4f}'}")
            hosted += 0.0 if tier.local else dollars
        prices = ", ".join(told)
        say(f"{len(left)} examples to be asked of both models, {len(known)} are there: {prices}")
        if "no price" in prices:
            say("without a price nothing tells what is saved: --prices FILE (docs/prices.md)")
        if hosted <= self.yes_up_to:
            return
        if not sys.stdin.isatty():
            why = "nobody is here to be asked"
            raise ConfigurationError(f"say --yes to spend this ({prices}); {why}.")
        if not typer.confirm("Go on?", err=True):
            raise typer.Exit(1)


def plan(
    recorded: Annotated[Path | None, Argument(help="Recorded answers, for their costs.")] = None,
    *,
    request: RequestOptions,
    expected: Expected,
) -> None:
    """Work out from which accept rate a cascade saves money, how much, or that it never does."""
    from cascade.evaluation import plan as work  # noqa: PLC0415 - heavy, keeps --help fast
    from cascade.evaluation.render import to_text  # noqa: PLC0415

    if expected.accept_n and expected.accept_rate is None:
        raise ConfigurationError("--accept-n says nothing alone: give --accept too.")
    if request.kwh_price and request.kw is None:
        raise ConfigurationError("--kwh-price says nothing alone: give --kw too.")
    if recorded is None:
        costs = _costs(request)
    else:
        with busy(f"reading {recorded}"):
            models, rate = (request.small, request.large), expected.accept_rate is None
            costs = work.recorded(recorded, *models, rate=rate)
        costs["note"] = f"The costs are those of {recorded}."
    found = work.plan(**{**vars(expected), **costs})
    told = {"summary": found.document.sentence, "verdict": found.verdict, **found.figures}
    told |= {name: found.figures[name].value for name in ("cost_ratio", "break_even_accept_rate")}
    give({**told, "from_requests": found.from_requests}, to_text(found.document))


def _costs(request: RequestOptions) -> dict[str, Any]:
    """Dollars of a draft, its check and a large answer, and what they rest on."""
    from cascade.ledger.prices import Price  # noqa: PLC0415 - heavy, keeps --help fast
    from cascade.state import Usage  # noqa: PLC0415

    read, written = request.input_tokens, request.output_tokens
    if read is None or written is None:
        told = "give --input-tokens and --output-tokens of a request"
        raise ConfigurationError(f"{told}, or a file of recorded answers.")
    by_hour, busy_s = None, request.busy_s
    if request.hourly is not None or request.kw is not None:
        power = {"kw": request.kw or 0, "kwh": request.kwh_price or 0}
        hardware = {"hardware_per_hour": request.hourly or 0, "utilisation": request.utilisation}
        by_hour = Price.local(**hardware, **power).per_hour
        if busy_s is None:
            raise ConfigurationError("give --busy-s, the seconds that a draft keeps it computing.")
    small = _price("small", request.small, request.small_price, by_hour)
    large = _price("large", request.large, request.large_price, None)

    def usd(price: Any, asked: int, told: int) -> Decimal:
        usage = Usage(input_tokens=asked, output_tokens=told)
        return Decimal(price.cost(usage, float((busy_s or 0) * 1000)))

    return {
        "draft_usd": usd(small, read, written),
        # A check adds some 30 tokens to question and draft, and has room for its one word.
        "check_usd": request.check_calls * usd(small, read + written + 30, 4),
        "large_usd": usd(large, read, request.large_output_tokens or written),
        "note": f"Prices: {small.source} (small); {large.source} (large).",
    }


def _price(which: str, model: str | None, tokens: Any, by_hour: Decimal | None) -> Any:
    """The price of a model, from what was typed about it."""
    from cascade.ledger.prices import ListPrice, Price, find_pricing  # noqa: PLC0415 - heavy

    if tokens is not None or by_hour is not None:
        read, written = tokens or (None, None)
        return Price(input=read, output=written, per_hour=by_hour)
    provider, _, name = (model or "").partition(":")
    listed = find_pricing(provider, name) if name else None
    if isinstance(listed, ListPrice):
        return listed
    machine = ", or --hourly for a machine of your own" if which == "small" else ""
    raise ConfigurationError(
        f"there is no price of {model or f'the {which} model'}: give --{which} with a list price, "
        f"such as openai:gpt-5.1, --{which}-price IN,OUT{machine}."
    )


def evaluate(
    file: Annotated[Path | None, Argument(help="Transcripts: JSON lines, plain or gzip.")] = None,
    *,
    fit: Annotated[Path | None, Option(help="Transcripts to fit on, in place of FILE.")] = None,
    test: Annotated[Path | None, Option(help="Other transcripts, to measure on alone.")] = None,
    small: SmallName = None,
    large: LargeName = None,
    calibration: CalibrationFile = None,
    checked: Annotated[bool, Option(help="A check shows which agent runs failed.")] = False,
    goal: Goal,
    html: Page = None,
) -> None:
    """Replay recorded answers: what would a cascade have cost, and how right would it have been?"""
    from cascade.confidence.calibration import Calibration  # noqa: PLC0415 - heavy
    from cascade.evaluation import read_transcripts, trajectories, verdict  # noqa: PLC0415
    from cascade.evaluation.features import Pair  # noqa: PLC0415

    wanted, path, tested = verdict.Options(**vars(goal)), fit or file, None
    if path is None or (fit and file):
        raise ConfigurationError("give the transcripts once: FILE, or --fit FILE --test OTHER.")
    if checked and (html or calibration):
        raise ConfigurationError("--checked takes neither --html nor --calibration: leave it out.")
    pair = small or "", large or ""
    with busy(f"reading {path}") as line:
        fitted = Pair(read_transcripts(path), *pair)
        if test is not None:
            tested = Pair(read_transcripts(test), *pair)
            both = {(r.id, r.prompt) for r in fitted.rows} & {(r.id, r.prompt) for r in tested.rows}
            if both:
                told = f"{test}: {len(both):,} of its rows are in {path} too"
                raise ConfigurationError(f"{told}: leave them out, or its figures are too good.")
        line.update(f"fitting and measuring on {len(fitted):,} rows")
        given = None if calibration is None else Calibration.load(calibration)
        if checked:
            found: Any = trajectories.check_runs(fitted, wanted, test=tested)
        else:
            found = verdict.evaluate(fitted, wanted, test=tested, calibration=given)
    if checked:
        give(found, found.text)
    else:
        write_page(html, verdict.to_document(found), path, test, calibration)
        _show(found)


def calibrate(
    file: Annotated[Path, Argument(help="Labelled rows: CSV, JSONL or Parquet.")],
    *,
    to: Annotated[Path, Option("--out", help="File to write.")] = Path("calibration.json"),
    agree_with_large: Annotated[bool, Option(help="No labels: large answers are right.")] = False,
    max_harm: MaxHarm = None,
    delta: Annotated[float, Option(help="Chance that a certificate does not hold.", **SHARE)] = 0.1,
    recorded: Annotated[bool, Option(help="FILE has transcripts of both models.")] = False,
    stop: Annotated[Path | None, Option(help="File to write: when to stop a small agent.")] = None,
    models: Models,
    examples: ExampleOptions,
) -> None:
    """Fit a calibration to your examples, and prove what can be promised with it.

    Ends with 1 where no certificate could be given that was asked for, or where the confidence is
    of no use.
    """
    from cascade import calibrate as making  # noqa: PLC0415 - heavy
    from cascade.confidence.calibrating import LEAST_LABELS  # noqa: PLC0415
    from cascade.evaluation.trajectories import early_stop_of  # noqa: PLC0415

    must_be_file("--out", to, file)
    path, done = file if recorded else to.with_suffix(".jsonl"), None
    must_be_file("--out", to, path)
    if stop is not None:
        must_be_file("--stop", stop, file, path, to)
    labels = "agreement with the large model" if agree_with_large else "references"
    given: dict[str, Any] = {"labels": labels, "max_harms": max_harm or (), "delta": delta}
    with ExitStack() as opened:
        cascade = examples.open(models, opened)
        if not recorded:
            least = LEAST_LABELS * (2 if max_harm else 1)
            rows = examples.read(file, path)
            done = examples.record(cascade, rows, path, least, agree_with_large)
        with busy("fitting"):
            fitted = asyncio.run(making.calibrate(cascade.kernel, path, **given))
        rule = making.rule_of(fitted.evaluation, cascade.tiers)
    made = fitted.calibration
    made.save(to)
    if stop is not None:
        early_stop_of(path, made.small.name, cascade.tiers[-1].model.name).save(stop)
    shown = ("calibrated", "recommendation", "quality", "certificates", "signals", "p_large")
    data = {name: getattr(made, name) for name in shown} | {"calibration": to, "collected": done}
    data["refusals"] = [refusal.reason for refusal in fitted.refusals]
    data["headline"] = fitted.evaluation and fitted.evaluation.sentence
    give(data, "\n".join(_told(fitted, to, rule)))
    if not made.recommendation.use:
        raise CascadeError(made.recommendation.text)
    if fitted.refusals and not made.certificates:
        raise CascadeError("no certificate could be given; the calibration is written.")


def try_(
    file: Annotated[Path, Argument(help="Labelled rows: CSV, JSONL or Parquet.")],
    *,
    to: Annotated[Path, Option("--out", help="Folder to write to.")] = Path("cascade-try"),
    shots: Annotated[int, Option(help="Examples of the file that every prompt shows.")] = 0,
    max_harm: MaxHarm = None,
    goal: Goal,
    models: Models,
    examples: ExampleOptions,
) -> None:
    """From labelled rows to an answer: is a cascade worth it here, and how is it set up?

    Records both models, fits, and prints a menu of points, a verdict, and the next command.
    Interrupted, the same command goes on where it was.
    """
    from cascade.calibrate import labels_of, with_shots  # noqa: PLC0415 - heavy
    from cascade.evaluation.verdict import Options  # noqa: PLC0415

    if choices := labels_of(examples.read(file, to / ANSWERS)):
        # Short labels want to be named, and no chance: 11 points of accuracy on a set of ours.
        if models.temperature is None:
            models = replace(models, temperature=0.0)
        compares_words = not examples.scorer.startswith(("numeric", "json", "judge"))
        if compares_words and examples.system is None:
            told = f"Answer with one of these words alone: {', '.join(choices)}."
            examples = replace(examples, system=told)
            say(f"system message, unless you give --system: {told}")
    rows = with_shots(examples.read(file, to / ANSWERS), shots)
    given: dict[str, Any] = {"max_harms": max_harm or (), "options": Options(**vars(goal))}
    with ExitStack() as opened:
        _judge(examples.open(models, opened), rows, to, examples, **given)


def demo(
    *,
    n: Annotated[int, Option(help="Questions to ask.")] = 40,
    small: Small = EMBEDDED,
    to: Annotated[Path, Option("--out", help="Folder to write to.")] = Path("demo-output"),
) -> None:
    """A real small model answers, checks itself and escalates; what that costs and saves.

    The large model's answers come with the package: a real model's, recorded once, at the list
    price of a hosted model of its size.
    """
    from cascade import Cascade, Price, Tier  # noqa: PLC0415 - heavy
    from cascade.calibrate import SIGNALS  # noqa: PLC0415
    from cascade.evaluation import read_examples, verdict  # noqa: PLC0415

    every, least = read_examples(DEMO / "questions.jsonl"), verdict.LEAST_ROWS
    if not least <= n <= len(every):
        raise ConfigurationError(f"--n {n}: give {least} to {len(every)}, which is all.")
    # The first ones are of all kinds; neighbours of a kind share the examples before a question,
    # which llama.cpp then reads once.
    rows = sorted(every[:n], key=lambda example: example.id)
    # Enough for every answer of the examples' form, and little lost when a model rambles.
    short: Any = {"max_tokens": 24, "temperature": 0.0}
    # One at a time, so that a draft's busy time is its own.
    own = {"n_parallel": 1} if small.startswith("llamacpp:") else {}
    recorded = f"replay:{DEMO / 'recorded.jsonl'}"
    tiers = [
        Tier(small, name="small", price=Price(per_hour="0.05"), options=own, **short),
        Tier(recorded, name="large", price=Price(input="0.1", output="0.1"), **short),
    ]
    how = ExampleOptions(scorer="contains", concurrency=2, yes=True)
    with Cascade(tiers=tiers, signals=SIGNALS) as cascade:
        _judge(cascade, rows, to, how, ASSUMED)


def _told(fitted: CalibrationFit, to: Path, rule: tuple[str, float] | None) -> Iterator[str]:
    made, q = fitted.calibration, fitted.calibration.quality
    area = "unknown" if q.auroc is None else f"{q.auroc:.3f}"
    yield f"{to}: {q.n} labelled drafts, {q.accuracy_small:.1%} of them right"
    yield f"  calibration error (ECE) {q.ece:.3f}, of the raw score {q.ece_raw:.3f}; AUROC {area}"
    for one in made.certificates:
        yield (
            f"  certified: P(accepted and wrong) ≤ {one.max_harm:.1%} with {1 - one.delta:.0%} "
            f"confidence, at confidence ≥ {one.threshold:.3f}; accepts {one.coverage:.0%}"
        )
        rule = "max_harm", made.certificates[0].max_harm
    yield from (f"  not certified: {refusal.reason}" for refusal in fitted.refusals)
    if fitted.evaluation:
        yield fitted.evaluation.sentence
    if made.recommendation.use:
        yield made.recommendation.text
        decided = "" if rule is None else f", {rule[0]}={rule[1]:g}"
        yield f"Use it: Cascade(…, calibrator='{to}'{decided})"


def _judge(
    cascade: Cascade,
    rows: Sequence[Example],
    to: Path,
    how: ExampleOptions,
    assumed: Sequence[str] = (),
    **options: Any,
) -> None:
    """Record, fit, and write everything; a verdict, and what to do next."""
    from cascade import calibrate as making  # noqa: PLC0415 - heavy
    from cascade.evaluation.verdict import LEAST_ROWS  # noqa: PLC0415

    collected = how.record(cascade, rows, to / ANSWERS, LEAST_ROWS)
    with busy("fitting"):
        fitted = asyncio.run(making.calibrate(cascade.kernel, to / ANSWERS, **options))
    files = making.write_artefacts(to, fitted, cascade.tiers, rows)
    found: Any = fitted.evaluation
    then = "cascade try, on labelled rows of your own"
    then = then if assumed else _next_step(found, files["configuration"])
    remark = f"wrote {', '.join(map(str, files.values()))}\nnext: {then}"
    more: Any = {"files": files, "collected": collected, "next": then}
    _show(found, remark, assumed, recommendation=fitted.calibration.recommendation, **more)


def _show(found: Evaluation, remark: str = "", assumed: Sequence[str] = (), **more: Any) -> None:
    from cascade.evaluation.render import to_text  # noqa: PLC0415 - heavy
    from cascade.evaluation.verdict import to_document  # noqa: PLC0415

    lines = [to_text(to_document(found)), *(f"Assumed: {price}." for price in assumed)]
    data = {"headline": found.sentence, **dict(found), "assumed": assumed, **more}
    give(data, "\n".join(lines), remark)


def _next_step(found: Evaluation, configuration: Path) -> str:
    from cascade.evaluation.verdict import FAIR_TEST  # noqa: PLC0415 - heavy

    serve, off = f"cascade serve {configuration}", found.verdict == "off"
    if found.verdict == "unpriced":
        return "the same command with --prices FILE and another --out; see docs/prices.md"
    if found.verdict == "unclear" or (off and found.rows < FAIR_TEST):
        return "label more rows and type the same command: it asks the new ones alone"
    either = "leave it off, or try another --small"
    return f"{either}; `{serve}` would measure it without using it" if off else serve
