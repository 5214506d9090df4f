"""An objective from its section."""

from __future__ import annotations

from klvi.objectives.base import Objective
from klvi.objectives.schema import ObjectiveSection
from klvi.registry import build


def build_objective(section: ObjectiveSection) -> Objective:
    """The configured objective."""
    objective: Objective = build(section)
    return objective
