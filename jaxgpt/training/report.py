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
from jaxgpt.training.metrics import MetricsFile, peak_flops, read_rows
from jaxgpt.training.optimizer import make_schedule
from jaxgpt.training.plot import plot_loss
from jaxgpt.training.progress import Display

PLOT_SECONDS = 30  # between drawings on the way


class NonFiniteError(ArithmeticError):
    """A loss or gradient is infinite or not a number."""


class Report:
    """Told of each dispatch when it is sent off, it waits for the one before: the device never waits for the host."""

    def __init__(self, run: Path, config: TrainConfig, start: int, flops_per_token: int | None = None):
        self._run, self._config = run, config
        # Every process waits and raises; the first of them writes.
        self._file = MetricsFile(run, start, config.train.tensorboard) if jax.process_index() == 0 else None
        steps = config.train.steps
        self._display = Display(start, steps)
        # All at once: a rate computed on the way would queue behind the steps in flight.
        self._rates = jax.device_get(jax.vmap(make_schedule(config.optimizer, steps))(jnp.arange(steps)))
        self._pending: tuple[int, int, dict[str, jax.Array], int] | None = None
        self._row: dict[str, Any] = {}
        now = time.perf_counter()
        self._speed, self._clock, self._plotted = 0.0, now, now
        self._begun = now - (0.0 if self._file is None else self._file.seconds)
        peak = peak_flops(jax.devices()[0].device_kind)
        known = peak is not None and flops_per_token is not None
        self._most = peak * config.mesh.size / flops_per_token if known else None  # tokens a second

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

    def dispatched(self, start: int, end: int, metrics: dict[str, jax.Array], tokens: int) -> None:
        """Steps start + 1 to end are under way and read so many tokens; tell of those before them."""
        for values in jax.tree.leaves(metrics):
            values.copy_to_host_async()  # asked for later, a GPU would copy them behind the steps after these
        self.settle()
        self._pending = (start, end, metrics, tokens)

    def settle(self) -> None:
        """Wait for the steps under way and tell of them. Raises NonFiniteError naming the first bad step."""
        if self._pending is None:
            return
        start, end, metrics, tokens = self._pending
        self._pending = None
        values = jax.device_get(metrics)
        now = time.perf_counter()
        log_every = self._config.train.log_every
        self._speed, self._clock = tokens / (now - self._clock), now
        for i in range(end - start):
            step, loss, grad_norm = start + i + 1, float(values["loss"][i]), float(values["grad_norm"][i])
            if not (math.isfinite(loss) and math.isfinite(grad_norm)):
                raise NonFiniteError(
                    f"step {step}: found loss {loss} and gradient norm {grad_norm}, expected finite ones"
                )
            self._row = self._training_row(step, loss, grad_norm)
            if step % log_every == 0 and step < end:
                self._tell(self._row)
        if end % log_every == 0 and not self._at_event(end):
            self._tell(self._row)

    def evaluated(self, step: int, row: dict[str, float]) -> None:
        """Tell of an evaluation after `step` updates, with those updates' last row.

        Raises NonFiniteError where its "val_loss" is not finite.
        """
        if not math.isfinite(row["val_loss"]):
            raise NonFiniteError(f"step {step}: found validation loss {row['val_loss']}, expected a finite one")
        self._tell(self._row | {"step": step} | row)
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
        if self._most is not None:
            row["mfu"] = self._speed / self._most
        return row

    def _tell(self, row: dict[str, Any]) -> None:
        row = row | {"seconds": round(time.perf_counter() - self._begun, 3)}
        if self._file is not None:
            self._file.write(row)
        self._display.row(row)
