"""What a run tells: rows of metrics.jsonl, the display, loss.png; and the alarm when a number is no longer finite."""

import contextlib
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxgpt.training.config import TrainConfig
from jaxgpt.training.metrics import MetricsFile, flops_per_token, peak_flops, read_rows, validation_metrics
from jaxgpt.training.optimizer import make_schedule
from jaxgpt.training.plot import plot_loss
from jaxgpt.training.progress import Display

PLOT_SECONDS = 30  # between drawings on the way


class NonFiniteError(ArithmeticError):
    """A loss or gradient is infinite or not a number."""


class Report:
    """Told of each dispatch when it is sent off, it waits for the one before: the device never waits for the host."""

    def __init__(self, run: Path, config: TrainConfig, start: int, bytes_per_token: float):
        self._run, self._config, self._bytes_per_token = run, config, bytes_per_token
        # Every process waits and raises; the first of them writes.
        self._file = MetricsFile(run, start, config.train.tensorboard) if jax.process_index() == 0 else None
        steps = config.train.steps
        self._display = Display(start, steps)
        # All at once: a rate computed on the way would queue behind the steps in flight.
        self._rates = jax.device_get(jax.vmap(make_schedule(config.optimizer, steps))(jnp.arange(steps)))
        self._pending: tuple[int, int, dict[str, jax.Array]] | None = None
        self._row: dict[str, Any] = {}
        self._speed, self._clock, self._plotted = 0.0, time.perf_counter(), time.perf_counter()
        peak = peak_flops(jax.devices()[0].device_kind)
        self._peak = None if peak is None else peak * config.mesh.size

    def __enter__(self):
        self._display.__enter__()
        return self

    def __exit__(self, *_):
        self._display.__exit__()
        if self._file is not None:
            self._file.close()

    def say(self, text: str) -> None:
        """A line for the reader."""
        self._display.say(text)

    def dispatched(self, start: int, end: int, metrics: dict[str, jax.Array]) -> None:
        """Steps start + 1 to end are under way; tell of those before them."""
        self.settle()
        self._pending = (start, end, metrics)

    def settle(self) -> None:
        """Wait for the steps under way and tell of them. Raises NonFiniteError naming the first bad step."""
        if self._pending is None:
            return
        start, end, metrics = self._pending
        self._pending = None
        values = jax.device_get(metrics)
        now = time.perf_counter()
        loop, model = self._config.train, self._config.model
        self._speed = (end - start) * loop.batch_size * model.context_length / (now - self._clock)
        self._clock = now
        for i in range(end - start):
            step, loss, grad_norm = start + i + 1, float(values["loss"][i]), float(values["grad_norm"][i])
            if not (math.isfinite(loss) and math.isfinite(grad_norm)):
                raise NonFiniteError(
                    f"step {step}: found loss {loss} and gradient norm {grad_norm}, expected finite ones"
                )
            self._row = self._training_row(step, loss, grad_norm)
            if step % loop.log_every == 0 and step < end:
                self._tell(self._row)
        if end % loop.log_every == 0 and not self._at_event(end):
            self._tell(self._row)

    def evaluated(self, step: int, val_loss: float) -> None:
        """Tell of an evaluation after `step` updates, with those updates' last row. Raises NonFiniteError."""
        if not math.isfinite(val_loss):
            raise NonFiniteError(f"step {step}: found validation loss {val_loss}, expected a finite one")
        self._tell(self._row | {"step": step} | validation_metrics(val_loss, self._bytes_per_token))
        if time.perf_counter() - self._plotted > PLOT_SECONDS:
            self.plot()

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Do something else than training, once the steps under way are told of; its time is not theirs."""
        self.settle()
        yield
        self._clock = time.perf_counter()

    def plot(self) -> None:
        """Draw loss.png from all rows so far."""
        if self._file is not None:
            plot_loss(read_rows(self._file.path), self._run / "loss.png", self._run.name)
        self._plotted = time.perf_counter()

    def _at_event(self, step: int) -> bool:
        return step % self._config.train.eval_every == 0 or step == self._config.train.steps

    def _training_row(self, step: int, loss: float, grad_norm: float) -> dict[str, Any]:
        row = {"step": step, "train_loss": loss, "train_perplexity": math.exp(min(loss, 700.0))}
        row |= {"grad_norm": grad_norm, "learning_rate": float(self._rates[step - 1])}
        row["tokens_per_second"] = round(self._speed, 1)
        if self._peak is not None:
            row["mfu"] = self._speed * flops_per_token(self._config.model) / self._peak
        return row

    def _tell(self, row: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(row)
        self._display.row(row)
