"""The version of the distribution `agent-cascade`."""

__version__ = "0.1.0"
