"""Where the seconds of a cell went."""

from matplotlib.figure import Figure

from bench.report.plots.drawing import PlottedStudy, Skipped, new_figure
from bench.report.table.numbers import number

PART_COLOURS = {
    "compile": "#999999", "train": "#0072B2", "sample": "#E69F00", "evaluate": "#009E73",
    "log": "#CC79A7", "checkpoint": "#56B4E9", "other": "#DDDDDD",
}  # fmt: skip


def ledger(content: PlottedStudy) -> Figure:
    """Draw the seconds of a cell by part, one bar per method, the mean over its seeds."""
    summary = content.report.summary
    parts = [part for part in PART_COLOURS if f"ledger.{part}" in summary.columns]
    known = summary[summary["seeds"] > 0]
    if not parts or known.empty:
        raise Skipped("no finished cell has a ledger")
    figure, (axes,) = new_figure(6.4, 1.5 + 0.3 * len(known))
    left = known["seeds"] * 0.0
    for part in parts:
        width, colour = known[f"ledger.{part}"].fillna(0.0), PART_COLOURS[part]
        axes.barh(known["method"], width, left=left, label=part, color=colour, height=0.62)
        left = left + width
    for method, total in zip(known["method"], left, strict=True):
        axes.annotate(
            f"{number(total)} s", (total, method), (4, 0), textcoords="offset points", va="center",
            fontsize=8,
        )  # fmt: skip
    axes.set_xlim(0, max(left) * 1.13 or 1)
    axes.set_ylim(len(known) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("seconds per cell, mean over finished seeds")
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside upper center", ncols=len(parts),
        columnspacing=1.0, handlelength=1.0,
    )  # fmt: skip
    return figure
