"""Plots of runs."""

from klvi.reports.convergence import Curve, plot_convergence

__all__ = ["Curve", "plot_convergence"]
