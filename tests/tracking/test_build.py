"""Trackers from the sections that describe them."""

from typing import Any, ClassVar, Literal

from rich.console import Console

from klvi.tracking.base import Trackers
from klvi.tracking.build import build_tracker
from klvi.tracking.console import ConsoleTracker
from klvi.tracking.jsonl import JsonLines
from klvi.tracking.output import Output
from klvi.tracking.schema import NoTracking, TrackingSection


class Posted(TrackingSection):
    builds: ClassVar[str] = f"{__name__}:posted"
    name: Literal["posted"]
    address: str


def posted(address: str, output: Output) -> Any:
    return address, output


def test_a_tracker_of_a_package_comes_after_klvis_own() -> None:
    output = Output(Console())
    section = Posted(name="posted", address="here")
    built = build_tracker(section, output)
    assert isinstance(built, Trackers)
    files, console, mirror = built.members
    assert isinstance(files, JsonLines)
    assert isinstance(console, ConsoleTracker)
    assert mirror == ("here", output)


def test_without_tracking_there_are_the_folder_and_the_console() -> None:
    built = build_tracker(NoTracking(name="none"), Output(Console()))
    assert isinstance(built, Trackers)
    assert len(built.members) == 2
