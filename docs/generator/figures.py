"""A claim's figure as SVG whose colours are the page's, so that one drawing reads in light and in dark."""

from __future__ import annotations

import io
import re
from html import escape
from typing import Any

import matplotlib
from matplotlib.figure import Figure as Canvas

from minimand.claims.claim import Figure

INK, GRID = "#010101", "#020202"
LINES = ["#030301", "#030302", "#030303", "#030304", "#030305", "#030306"]
DASHES = ["-", "--", "-.", ":", (0, (5, 1)), (0, (1, 2, 4, 2))]  # so that colour is not all that tells lines apart
VARIABLES = {INK: "--figure-ink", GRID: "--figure-grid"} | {hue: f"--figure-{i + 1}" for i, hue in enumerate(LINES)}
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "minimand",
    "font.family": "sans-serif",
    "font.size": 11,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}
ARE_MARKED = 12  # with so few points or fewer, the points are marked


def draw(figure: Figure) -> str:
    """The figure as an HTML element."""
    with matplotlib.rc_context(STYLE):
        canvas = Canvas(figsize=(7.2, 3.9))
        axes = canvas.subplots()
        for i, (name, points) in enumerate(figure.lines.items()):
            x, y = zip(*points, strict=True) if points else ((), ())
            mark = "o" if len(points) <= ARE_MARKED else ""
            dash, hue = DASHES[i % len(DASHES)], LINES[i % len(LINES)]
            axes.plot(x, y, label=_literal(name), color=hue, linestyle=dash, marker=mark, markersize=4, linewidth=1.8)
        axes.set_xlabel(_literal(figure.x))
        axes.set_ylabel(_literal(figure.y))
        axes.set_xscale("log" if figure.log_x else "linear")
        axes.set_yscale("log" if figure.log_y else "linear")
        axes.set_axisbelow(True)
        if figure.lines:
            axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0)) if len(figure.lines) > 4 else axes.legend()
        out = io.StringIO()
        canvas.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return (
        f'<figure class="figure" tabindex="0"><figcaption>{escape(figure.title)}</figcaption>'
        f"{_themed(out.getvalue(), figure)}</figure>"
    )


def _themed(svg: str, figure: Figure) -> str:
    """The drawing alone, with the page's colours and a label for readers who do not see it."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for hue, variable in VARIABLES.items():
        svg = svg.replace(hue, f"var({variable})")
    svg = re.sub(r"font: ([\d.]+)px [^;\"]+", r"font-size: \1px", svg)
    label = escape(f"{figure.title}: {figure.y} by {figure.x}, for {', '.join(figure.lines)}")
    return re.sub(r"<svg [^>]*viewBox=\"([^\"]+)\"[^>]*>", rf'<svg role="img" aria-label="{label}" viewBox="\1">', svg)


def _literal(text: str) -> str:
    """Text that is not read as mathematics."""
    return text.replace("$", r"\$")
