"""Metrics: estimators with intervals, exact values by enumeration, and the frontier's check."""

from klvi.metrics.catalogue import METRICS
from klvi.metrics.evaluate import evaluate
from klvi.metrics.frontier import frontier_violation
from klvi.metrics.measurement import Measurement, Metric, Unavailable

__all__ = ["METRICS", "Measurement", "Metric", "Unavailable", "evaluate", "frontier_violation"]
