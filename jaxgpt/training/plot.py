"""Pictures of a run: its training and validation loss, how good its model is at what the loss stands for, and which
classes it takes for which."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

QUALITIES = {"val_bleu": "BLEU", "val_accuracy": "accuracy"}  # the first that the rows hold is drawn


def plot_loss(rows: list[dict[str, Any]], path: Path, title: str) -> None:
    """Draw the rows of metrics.jsonl: every training loss faint, their running mean and the validation loss on top.

    Below, where the rows hold one of QUALITIES, its curve over the minutes of the run (over steps, if a row lacks its
    seconds).
    """
    from matplotlib.figure import Figure  # no pyplot: no global state, no display

    quality = next((name for name in QUALITIES if any(name in row for row in rows)), None)
    figure = Figure(figsize=(7.2, 4.2 if quality is None else 7.2), dpi=120, layout="constrained")
    panels = figure.subplots(1 if quality is None else 2, squeeze=False)[:, 0]
    panels[0].set_title(title)
    _losses(panels[0], rows)
    if quality is not None:
        _quality(panels[1], [row for row in rows if quality in row], quality)
    for axes in panels:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    _write(figure, path)


def plot_confusion(counts: Float[np.ndarray, "classes classes"], labels: Sequence[str], path: Path) -> None:
    """Draw how many texts of each class (rows) were taken for each (columns): the number, shaded by the row's share."""
    from matplotlib.figure import Figure

    n = len(labels)
    size = min(2.6 + 0.9 * n, 16)
    figure = Figure(figsize=(size + 0.6, size), dpi=120, layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xticks=range(n), yticks=range(n), yticklabels=labels, xlabel="taken for", ylabel="class")
    axes.set_xticklabels(
        labels, rotation=45 if max(map(len, labels)) * n > 40 else 0, ha="right" if n > 8 else "center"
    )
    for (i, j), share in np.ndenumerate(shares if n <= 20 else np.zeros((0, 0))):  # more don't fit
        color = "white" if share > 0.5 else "black"
        axes.text(j, i, f"{counts[i, j]:.0f}\n{share:.1%}", ha="center", va="center", color=color)
    right = np.trace(counts) / max(counts.sum(), 1)
    axes.set_title(f"{right:.1%} of {counts.sum():,.0f} right")
    _write(figure, path)


def _write(figure: Any, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    beside = path.with_name(f".{path.name}")
    FigureCanvasAgg(figure).print_png(str(beside))
    os.replace(beside, path)


def _losses(axes, rows: list[dict[str, Any]]) -> None:
    train = [(row["step"], row["train_loss"]) for row in rows if "train_loss" in row]
    val = [(row["step"], row["val_loss"]) for row in rows if "val_loss" in row]
    if train:
        steps, losses = zip(*train, strict=True)
        axes.plot(steps, losses, color="tab:blue", alpha=0.25, linewidth=1)
        axes.plot(
            steps, _running_mean(losses), color="tab:blue", linewidth=1.8, label=f"training, last {losses[-1]:.3f}"
        )
    if val:
        steps, losses = zip(*val, strict=True)
        axes.plot(steps, losses, "o-", color="tab:orange", markersize=4, label=f"validation, last {losses[-1]:.3f}")
    axes.set(xlabel="step", ylabel="loss (nats)")
    if train or val:
        axes.legend(frameon=False)


def _quality(axes, rows: list[dict[str, Any]], name: str) -> None:
    timed = all("seconds" in row for row in rows)
    places = [row["seconds"] / 60 if timed else row["step"] for row in rows]
    values = [row[name] for row in rows]
    axes.plot(places, values, "o-", color="tab:green", markersize=4, label=f"validation, last {values[-1]:.4g}")
    axes.set(xlabel="minutes" if timed else "step", ylabel=QUALITIES[name])
    axes.legend(frameon=False)


def _running_mean(values, share: float = 0.2) -> list[float]:
    means, total, weight = [], 0.0, 0.0
    for value in values:
        total, weight = (1 - share) * total + share * value, (1 - share) * weight + share
        means.append(total / weight)
    return means
