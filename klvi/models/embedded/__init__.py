"""Priors that ship with klvi or are made on the spot, for work offline."""

from pathlib import Path

from klvi.models.embedded.enumerable import enumerable_lm


def tiny_path() -> Path:
    """The folder of the built-in prior `tiny`."""
    return Path(__file__).parent / "tiny"


__all__ = ["enumerable_lm", "tiny_path"]
