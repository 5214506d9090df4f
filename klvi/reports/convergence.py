"""How exact divergences and entropy of several runs move with their updates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito (2008): told apart under every common form of colour blindness.
STYLES = {
    "rl": {"color": "#D55E00", "linestyle": "-", "marker": "s"},
    "kl": {"color": "#0072B2", "linestyle": "-", "marker": "o"},
    "gdc": {"color": "#009E73", "linestyle": "--", "marker": "^"},
}
GREY = "#555555"


@dataclass(frozen=True)
class Curve:
    """Exact values of one run, nats per sequence, at its evaluations after `updates` updates."""

    updates: Sequence[int]
    kl_reverse: Sequence[float]
    kl_forward: Sequence[float]
    entropy: Sequence[float]


def plot_convergence(
    curves: Mapping[str, Curve], target_entropy: float, title: str, file: Path
) -> None:
    """Write a figure of three panels: KL(π‖p), KL(p‖π) and entropy against updates."""
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    reverse, forward, entropy = figure.subplots(1, 3, sharex=True)
    panels = ((reverse, "kl_reverse"), (forward, "kl_forward"), (entropy, "entropy"))
    for axes, field in panels:
        for name, curve in curves.items():
            axes.plot(
                curve.updates,
                getattr(curve, field),
                label=f"objective={name}",
                linewidth=1.8,
                markersize=3.5,
                **STYLES.get(name, {}),
            )
    entropy.axhline(target_entropy, color=GREY, linestyle=":", linewidth=1.5, label="posterior p")
    _dress(reverse, "KL(π‖p)", logarithmic=True)
    _dress(forward, "KL(p‖π)", logarithmic=True)
    _dress(entropy, "entropy of π", logarithmic=False)
    figure.suptitle(title, fontsize=11)
    handles, labels = entropy.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.savefig(file, dpi=150)


def _dress(axes: Axes, quantity: str, *, logarithmic: bool) -> None:
    axes.set_title(quantity, fontsize=11)
    axes.set_xlabel("update")
    axes.set_ylabel("nats per sequence")
    if logarithmic:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.grid(which="major", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
