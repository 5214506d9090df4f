"""How often a reward model's preference was the label, against how sure it was."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from klvi.training.held_out import EnsembleHeldOut

BLUE, GREY = "#0072B2", "#999999"


def plot_calibration(found: EnsembleHeldOut, title: str, file: Path) -> None:
    """Write a figure: a thin line per member, and the ensemble's mean, or the only member, thick.

    Bars are the intervals of the thick line's points.
    """
    figure = Figure(figsize=(5, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.plot([0.5, 1], [0.5, 1], color=GREY, linestyle=":", label="calibrated")
    main = found.mean or next(iter(found.members.values()))
    for name, held_out in found.members.items() if found.mean is not None else ():
        x = [each.predicted for each in held_out.bins]
        y = [each.observed.value for each in held_out.bins]
        axes.plot(x, y, color=GREY, linewidth=0.8, label="members" if name == "0" else None)
    x = [each.predicted for each in main.bins]
    y = [each.observed.value for each in main.bins]
    below = [each.observed.value - each.observed.low for each in main.bins]
    above = [each.observed.high - each.observed.value for each in main.bins]
    label = "reward model" if found.mean is None else "mean of the ensemble"
    axes.errorbar(x, y, yerr=[below, above], color=BLUE, marker="o", capsize=2, label=label)
    axes.set_xlabel("probability of the preferred completion")
    axes.set_ylabel("share of held-out pairs in which it was chosen")
    axes.set_title(title, fontsize=11)
    axes.set_xlim(0.49, 1.01)
    axes.set_ylim(bottom=min([0.45, *(each.observed.low for each in main.bins)]), top=1.02)
    axes.grid(color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(file, dpi=150)
