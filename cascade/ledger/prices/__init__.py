"""What a call costs: prices set by the user, list prices by date, or nothing known."""

from cascade.ledger.prices.base import Dollars, Pricing
from cascade.ledger.prices.dated import DatedPrice
from cascade.ledger.prices.listed import ListPrice, NoPrice, find_pricing
from cascade.ledger.prices.own import Price
from cascade.ledger.prices.table import Prices, load_prices

__all__ = [
    "DatedPrice",
    "Dollars",
    "ListPrice",
    "NoPrice",
    "Price",
    "Prices",
    "Pricing",
    "find_pricing",
    "load_prices",
]
