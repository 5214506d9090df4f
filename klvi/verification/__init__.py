"""`klvi verify`: what theory says, held against what this installation measures."""

from klvi.verification.claim import Claim, claim_tables
from klvi.verification.controls import negative_controls
from klvi.verification.dissociation import double_dissociation
from klvi.verification.estimates import Calibration, calibrations, estimators
from klvi.verification.identities import identities
from klvi.verification.space import Space
from klvi.verification.training import OBJECTIVES, Trained, standstill, train

__all__ = [
    "OBJECTIVES",
    "Calibration",
    "Claim",
    "Space",
    "Trained",
    "calibrations",
    "claim_tables",
    "double_dissociation",
    "estimators",
    "identities",
    "negative_controls",
    "standstill",
    "train",
]
