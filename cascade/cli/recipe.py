"""How a command's options make a cascade, in this process or in another one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cascade.cli.pairing import pair
from cascade.errors import ConfigurationError

if TYPE_CHECKING:
    from cascade.api import Cascade
    from cascade.ledger.store import Store

IN_THE_CONFIGURATION = (
    "small",
    "large",
    "threshold",
    "price_of_error",
    "calibration",
    "prices",
    "max_tokens",
    "ledger",
)
"""Options that a cascade of a configuration has from there."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Options as they were given. Called, it makes the cascade, as often as one is needed.

    It can be pickled, so that another process can make a cascade of its own.
    """

    small: str
    large: str | None
    threshold: float | None
    price_of_error: float | None
    max_tokens: int | None
    prices: Path | None
    calibration: Path | None
    ledger: str | None
    config: Path | None
    cascade: str | None

    @classmethod
    def of(cls, context: typer.Context) -> Recipe:
        """That of the options of a command which has all of them."""
        return cls(**{field.name: context.params[field.name] for field in fields(cls)})

    @contextmanager
    def __call__(self) -> Iterator[Cascade]:
        """The cascade, with its ledger, for as long as a `with` block.

        Raises:
            ConfigurationError: the options cannot work.
        """
        with ExitStack() as opened:
            made = self._paired(opened) if self.config is None else self._configured(opened)
            yield opened.enter_context(made)

    def refuse_ignored(self, context: typer.Context) -> None:
        """Refuse an option that the other way of naming a cascade would ignore.

        Raises:
            ConfigurationError: there is one.
        """
        unused = ("cascade",) if self.config is None else IN_THE_CONFIGURATION
        for name in unused:
            if _is_given(context, name):
                option = "--" + name.replace("_", "-")
                raise ConfigurationError(
                    f"{option} is for a cascade of --config: give that too."
                    if self.config is None
                    else f"{option} was given beside --config, which says that itself: give one."
                )

    def _paired(self, opened: ExitStack) -> Cascade:
        return pair(
            self.small,
            self.large,
            threshold=self.threshold,
            price_of_error=self.price_of_error,
            max_tokens=self.max_tokens,
            prices=self.prices,
            calibrator=self.calibration,
            ledger=None if self.ledger is None else _ledger(self.ledger, opened),
        )

    def _configured(self, opened: ExitStack) -> Cascade:
        from cascade.cli.serve import require_service  # noqa: PLC0415

        require_service()
        from cascade.service.building import build_cascade, open_ledger  # noqa: PLC0415 - heavy
        from cascade.service.reading import read_settings  # noqa: PLC0415 - heavy

        assert self.config is not None, "asked of recipes with a configuration"
        path, name = self.config, self.cascade
        settings = read_settings(path)
        there = settings.config.cascades
        if name is None and len(there) > 1:
            raise ConfigurationError(
                f"{path} has {', '.join(there)}: say which one, --cascade NAME."
            )
        name = name or next(iter(there))
        if name not in there:
            raise ConfigurationError(f"{path} has no cascade {name!r}; it has {', '.join(there)}.")
        kept = settings.config.ledger
        store = None if kept is None else open_ledger(kept)
        if store is not None:
            opened.callback(store.close)
        return build_cascade(name, there[name], settings.path.parent, store, [])


def refuse_unless(there: object, context: typer.Context, name: str, *, needed: str) -> None:
    """Refuse an option that only another one gives a meaning.

    Args:
        there: true where that one is there.
        context: of the command.
        name: the option's, as a parameter.
        needed: the other one, as it is typed.

    Raises:
        ConfigurationError: it was given all the same.
    """
    if not there and _is_given(context, name):
        option = "--" + name.replace("_", "-")
        raise ConfigurationError(f"{option} goes with {needed}: give that too.")


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _ledger(url: str, opened: ExitStack) -> Store:
    from cascade.ledger.store import open_store  # noqa: PLC0415 - heavy

    store = open_store(url)
    opened.callback(store.close)
    return store
