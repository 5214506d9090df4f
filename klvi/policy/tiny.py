"""The built-in prior `tiny`: short stories of people who travel."""

from pathlib import Path


def tiny_path() -> Path:
    """The folder of the built-in prior."""
    return Path(__file__).parent / "tiny_files"
