"""loss.png: the training and validation loss of a run, and how good its model is at what the loss stands for."""

import os
from pathlib import Path
from typing import Any

QUALITIES = {"val_bleu": "BLEU", "val_accuracy": "accuracy"}  # the first that the rows hold is drawn


def plot_loss(rows: list[dict[str, Any]], path: Path, title: str) -> None:
    """Draw the rows of metrics.jsonl: every training loss faint, their running mean and the validation loss on top.

    Below, where the rows hold one of QUALITIES, its curve over the minutes of the run (over steps, if a row lacks its
    seconds).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
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
    axes.set(xlabel="step", ylabel="loss (nats a token)")
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
