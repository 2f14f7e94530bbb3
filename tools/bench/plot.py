"""The picture in docs/performance.md, drawn from the figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.latency import REPORTERS

COLOURS = {"agent": "#b5482a", "floor": "#5b7f95", "full": "#9db4c0", "http": "#c9d6dc"}
LIMIT_GREY = "#888888"
RATIOS = (
    ("start_ratio", "start"),
    ("storm_ratio", "storm"),
    ("resync_ratio", "resync"),
    ("stuck_p99_ratio", "six QEMUs hang"),
)
"""The figures with a goal, in the order of the table."""


def draw(figures: dict[str, Any], goals: dict[str, float], file: Path) -> None:
    """Draw the event-to-status times of each driver, and the ratios under load with their goals."""
    # Keep text as text, and make the file reproducible.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "virtsync", "font.size": 9}):
        picture = Figure(figsize=(10, 3.8), layout="constrained")
        axes = picture.subplots(1, 3, width_ratios=[2, 2, 1.6])
        for axis, (driver, measured) in zip(axes, figures["drivers"].items(), strict=False):
            _draw_times(axis, driver, measured)
        _draw_ratios(axes[2], figures, goals)
        picture.legend(*axes[0].get_legend_handles_labels(), loc="outside lower left", ncols=4, frameon=False)
        picture.savefig(file, metadata={"Date": None})


def _draw_times(axis: Axes, driver: str, measured: dict[str, Any]) -> None:
    for name, words in REPORTERS.items():
        samples = measured[name]["samples"]
        share = [100 * (number + 1) / len(samples) for number in range(len(samples))]
        width = 2.0 if name == "agent" else 1.2
        axis.step(samples, share, where="post", color=COLOURS[name], linewidth=width, label=words)
    axis.set_xscale("log")
    axis.set_xlim(1, 100)
    axis.set_xticks([1, 2, 5, 10, 20, 50, 100], ["1", "2", "5", "10", "20", "50", "100"])
    axis.minorticks_off()
    axis.set_xlabel("ms from libvirt's event to the status")
    axis.set_ylabel("% of events")
    axis.set_title({"test": "libvirt's test driver, 50 VMs", "qemu": "QEMU"}[driver], fontsize=10)
    axis.grid(visible=True, color="#e5e5e5")


def _draw_ratios(axis: Axes, figures: dict[str, Any], goals: dict[str, float]) -> None:
    rows = dict(reversed(RATIOS))
    for row, key in enumerate(rows):
        axis.barh(row, figures[key], color=COLOURS["agent"], height=0.5)
        axis.plot([goals[key]] * 2, [row - 0.4, row + 0.4], color=LIMIT_GREY, linewidth=2)
        axis.text(figures[key], row + 0.32, f"{figures[key]:.2f}", fontsize=8, ha="right")
    axis.set_yticks(range(len(rows)), list(rows.values()))
    axis.set_xlim(left=0)
    axis.set_title("under load, as a multiple\nof the floor (line: goal)", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
