"""Options that commands share by type: a group of them is one parameter, and one panel of help."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from cascade.cli.program import say
from cascade.errors import ConfigurationError, LedgerError

if TYPE_CHECKING:
    from cascade.api import Cascade

EMBEDDED = "llamacpp:smollm2-135m"
"""The model that comes as a package, and drafts where no other is named."""

Small = Annotated[str, Option(envvar="CASCADE_SMALL", help="Model that drafts.")]
SmallName = Annotated[str | None, Option(envvar="CASCADE_SMALL", help="Model that drafts.")]
LargeName = Annotated[str | None, Option(envvar="CASCADE_LARGE", help="Model asked in doubt.")]
PriceOfError = Annotated[float | None, Option(help="Dollars a wrong answer costs you.", min=1e-9)]
System = Annotated[str | None, Option(help="System message before each question.")]
CalibrationFile = Annotated[Path | None, Option("--calibration", help="File by cascade calibrate.")]
AtOnce = Annotated[int | None, Option(min=1, help="Questions at once: 8 (batch 16, Ollama 2).")]
Page = Annotated[Path | None, Option("--html", help="Write a page as well.")]


@dataclass(frozen=True, kw_only=True)
class Models:
    """Models."""

    small: Small = EMBEDDED
    large: LargeName = None
    prices: Annotated[Path | None, Option(help="File of prices (TOML); see docs/prices.md.")] = None
    max_tokens: Annotated[int | None, Option(help="Longest answer, in tokens.")] = None
    temperature: Annotated[float | None, Option(help="Of both models; 0 for short labels.")] = None

    def open(self, opened: ExitStack, *, ledger: str | None = None, **options: Any) -> Cascade:
        """The cascade of these models; it and the ledger of that address are closed by `opened`."""
        from cascade import Cascade, Tier  # noqa: PLC0415 - heavy, keeps --help fast
        from cascade.ledger.prices import load_prices  # noqa: PLC0415

        if self.large is None and not options.get("local_only"):
            raise ConfigurationError(
                "there is no large model: name it with --large, or once for all with `export "
                "CASCADE_LARGE=openai:gpt-5.1`; `cascade doctor` shows what is within reach."
            )
        common: dict[str, Any] = {"max_tokens": self.max_tokens, "temperature": self.temperature}
        if self.prices is not None:
            common["price"] = load_prices(self.prices)
        if ledger is not None:
            from cascade._portal import run_sync  # noqa: PLC0415
            from cascade.ledger import open_store  # noqa: PLC0415 - SQLAlchemy

            options["ledger"] = store = opened.enter_context(open_store(ledger))
            try:
                run_sync(store.read(lambda _: None))
            except LedgerError as error:  # which each question would end with
                told = f"--ledger: {str(error).rstrip('.')}"
                way_out = "make its folder, start its server, or give another"
                raise ConfigurationError(f"{told}: {way_out}.") from error
        tiers = []
        for name, given in (("small", self.small), ("large", self.large)):
            model: Any = given
            if given and given.startswith("agent:"):  # of a recording
                from cascade.integrations.agent_tier import recorded_agent  # noqa: PLC0415

                model = recorded_agent(given.removeprefix("agent:"))
            tiers += [Tier(model, name=name, **common)] if given else []
        return opened.enter_context(Cascade(tiers=tiers, **options))


@dataclass(frozen=True, kw_only=True)
class PolicyOptions:
    """Escalation."""

    threshold: Annotated[float | None, Option(help="Least confidence of a draft to accept.")] = None
    price_of_error: PriceOfError = None
    calibrator: CalibrationFile = None


def at_once(cascade: Cascade, usual: int) -> int:
    """Questions at once where it is not said: Ollama, which answers one by one, gets no queue."""
    return 2 if any(tier.model.provider == "ollama" for tier in cascade.tiers) else usual


def write_page(path: Path | None, document: Any, *read: Path | None) -> None:
    """Write a document as a page, where that is wanted, and not over what was read."""
    if path is not None:
        from cascade.evaluation.render import to_page  # noqa: PLC0415 - heavy

        must_be_file("--html", path, *read)
        path.write_text(to_page(document), encoding="utf-8")
        say(f"wrote {path}")


def must_be_file(option: str, path: Path, *read: Path | None) -> None:
    """Refuse a file that cannot be written, or is read, before everything has been paid for."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise ConfigurationError(f"{option} {path}: a file in a folder that exists is needed.")
    if {path.resolve(), path.resolve().parent} & {each.resolve() for each in read if each}:
        raise ConfigurationError(f"{option} {path}: it is read as well. Give another place.")
