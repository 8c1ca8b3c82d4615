"""Attention weights as a picture: a heat map a head, the tokens along both axes."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from jaxgpt.checks import require
from jaxgpt.inspection import AttentionMap

_CELL = 0.22  # inches that a token takes
_SMALLEST_CELL = 0.11  # inches that a label needs
_PANEL, _WIDTH = 9.0, 18.0  # inches, at most, of a single panel, and of all beside each other
_FONT = 8.0  # points
_LONGEST = 18  # characters of a label

_SHOWN = str.maketrans({" ": "·", "\n": "↵", "\t": "⇥", "\r": "␍"})


def draw_attention(
    seen: AttentionMap,
    path: str | Path,
    *,
    layer: int = -1,
    heads: Sequence[int] | Literal["all", "mean"] = "all",
    title: str = "attention",
) -> None:
    """Write a PNG of one layer's weights: a panel for each of the heads, or their mean in one. Dark is much.

    layer, heads: from 0; a layer below 0 counts from the last. A space in a token is shown as "·", a line break as "↵".
    Raises ValueError for a layer or head that is not there, and for a path that does not end in .png.
    """
    n_layers, n_heads = seen.weights.shape[:2]
    path = Path(path)
    require(path.suffix.lower() == ".png", "path", str(path), "a name that ends in .png")
    require(-n_layers <= layer < n_layers, "layer", layer, f"{-n_layers}..{n_layers - 1}")
    layer %= n_layers
    title = f"{title}, layer {layer}"
    if heads == "mean":
        panels = {f"mean of {n_heads} heads": seen.weights[layer].mean(0)}
    else:
        chosen = range(n_heads) if heads == "all" else heads
        require(len(chosen) > 0, "heads", list(chosen), "at least one")
        for head in chosen:
            require(0 <= head < n_heads, "head", head, f"0..{n_heads - 1}")
        panels = {f"head {head}": seen.weights[layer, head] for head in chosen}
    _draw(panels, _labels(seen.queries), _labels(seen.keys), title, path)


def _draw(panels: dict[str, np.ndarray], queries: list[str], keys: list[str], title: str, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure  # no pyplot: no global state, no display

    columns = _columns(len(panels))
    rows = math.ceil(len(panels) / columns)
    cell = min(_CELL, (_PANEL if len(panels) == 1 else _WIDTH / columns) / max(len(queries), len(keys)))
    every = math.ceil(_SMALLEST_CELL / cell)  # labels that would run into each other are left out
    font = min(_FONT, 72 * 0.8 * cell * every)
    across, down = (max(map(len, labels)) * font * 0.62 / 72 for labels in (queries, keys))
    width = columns * (cell * len(keys) + 0.2) + across + 1.5
    height = rows * (cell * len(queries) + 0.3) + down + 1.0
    figure = Figure(figsize=(max(width, 4.5), height), dpi=120, layout="compressed")
    # The square root shows small shares beside a causal model's first row, which is always 1.
    norm = PowerNorm(0.5, 0, max(float(weights.max()) for weights in panels.values()))

    for i, (name, weights) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, i + 1)
        image = axes.imshow(weights, cmap="Blues", norm=norm)
        axes.set_title(name if len(panels) > 1 else f"{title}, {name}", fontsize=_FONT + 1)
        axes.tick_params(length=0)
        axes.spines[:].set_color("0.8")
        left, lowest = i % columns == 0, i + columns >= len(panels)
        _tick(axes.yaxis, queries if left else [], every, font)
        _tick(axes.xaxis, keys if lowest else [], every, font, rotation=90)
        axes.set_ylabel("from (query)" if left else "", fontsize=_FONT, color="0.4")
        axes.set_xlabel("to (key)" if lowest else "", fontsize=_FONT, color="0.4")
    if len(panels) > 1:
        figure.suptitle(title, fontsize=_FONT + 3)
    bar = figure.colorbar(image, ax=figure.axes, shrink=min(0.9, 3 / height), aspect=25, pad=0.02)
    bar.ax.tick_params(labelsize=_FONT)

    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        FigureCanvasAgg(figure).print_png(str(beside))
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _columns(panels: int) -> int:
    """As many as fill every row, if such a grid is at most four times as wide as high; else about the square root."""
    least = math.ceil(math.sqrt(panels))
    return next((n for n in range(least, panels + 1) if panels % n == 0 and n * n <= 4 * panels), least)


def _tick(axis, labels: list[str], every: int, font: float, **options) -> None:
    axis.set_ticks(range(0, len(labels), every), labels[::every], fontsize=font, **options)
    for label in axis.get_ticklabels():
        label.set_parse_math(False)  # a token may be "$"


def _labels(tokens: list[str]) -> list[str]:
    """Token texts with their white space visible, cut where they are long."""
    shown = [token.translate(_SHOWN) for token in tokens]
    return [text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…" for text in shown]
