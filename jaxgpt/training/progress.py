"""What a run shows while it works: a live bar on a terminal, a line now and then elsewhere."""

import time
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

QUIET_SECONDS = 10  # between lines where there is no terminal
SHOWN = {
    "train_loss": "loss {:.4f}",
    "val_loss": "val {:.4f}",
    "val_accuracy": "accuracy {:.4f}",
    "val_macro_f1": "F1 {:.4f}",
    "val_unigram_accuracy": "(unigram {:.4f})",
    "val_bleu": "BLEU {:.2f}",
}


class Display:
    """Step, loss, speed and time left."""

    def __init__(self, start: int, steps: int):
        self._console = Console(highlight=False, soft_wrap=True)
        self._start, self._steps, self._begun, self._shown = start, steps, time.perf_counter(), 0.0
        self._bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[text]}"),
            TextColumn("elapsed"),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            refresh_per_second=4,
        )
        self._task = self._bar.add_task("", total=steps, completed=start, text="compiling")

    def __enter__(self):
        self._bar.start()
        return self

    def __exit__(self, *_):
        self._bar.stop()

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.print(text, markup=False)

    def row(self, row: dict[str, Any]) -> None:
        """Show the newest numbers; an evaluation is a line that stays."""
        step = row["step"]
        parts = [form.format(row[name]) for name, form in SHOWN.items() if name in row]
        if "tokens_per_second" in row:
            parts += [f"{row['tokens_per_second']:,.0f} tokens/s", f"ETA {self._left(step)}"]
        text = "  ".join(parts)
        self._bar.update(self._task, completed=step, text=text)
        now = time.perf_counter()
        quiet = not self._console.is_terminal and now - self._shown > QUIET_SECONDS
        if "val_loss" in row or quiet:
            self._shown = now
            self.say(f"step {step:>{len(str(self._steps))}}/{self._steps}  {text}")

    def _left(self, step: int) -> str:
        done = max(step - self._start, 1)
        seconds = (time.perf_counter() - self._begun) / done * (self._steps - step)
        return str(timedelta(seconds=round(seconds)))
