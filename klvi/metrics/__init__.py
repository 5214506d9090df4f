"""Metrics: estimators with intervals, exact values by enumeration, and the frontier's check."""
