"""INFERENCE at decoding time, and the proposals that training draws from."""

from typing import Any

from klvi.registry import described, names_described


def __getattr__(name: str) -> Any:
    return described(__name__, name)


def __dir__() -> list[str]:
    return names_described(__name__)
