"""loss.png: the training and validation loss of a run."""

import os
from pathlib import Path
from typing import Any


def plot_loss(rows: list[dict[str, Any]], path: Path, title: str) -> None:
    """Draw the rows of metrics.jsonl: every training loss faint, their running mean and the validation loss on top."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # no pyplot: no global state, no display

    figure = Figure(figsize=(7.2, 4.2), dpi=120, layout="constrained")
    axes = figure.add_subplot()
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
    axes.set(title=title, xlabel="step", ylabel="loss (nats a token)")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if train or val:
        axes.legend(frameon=False)
    beside = path.with_name(f".{path.name}")
    FigureCanvasAgg(figure).print_png(str(beside))
    os.replace(beside, path)


def _running_mean(values, share: float = 0.2) -> list[float]:
    means, total, weight = [], 0.0, 0.0
    for value in values:
        total, weight = (1 - share) * total + share * value, (1 - share) * weight + share
        means.append(total / weight)
    return means
