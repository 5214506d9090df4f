"""Targets, the modelling half: which distribution is wanted, as log P = log π0 + log potential."""

from typing import Any

from klvi.registry import described, names_described


def __getattr__(name: str) -> Any:
    return described(__name__, name)


def __dir__() -> list[str]:
    return names_described(__name__)
