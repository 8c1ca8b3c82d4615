"""The files that a run's numbers go to, and what they are held against: operations a token, the peak of a device."""

import json
import os
from pathlib import Path
from typing import Any

from jaxgpt.config import ModelConfig

# Dense bfloat16 FLOP/s of one device, from the vendors' data sheets, by the beginning of JAX's device_kind.
PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}


def peak_flops(device_kind: str) -> float | None:
    """The device's dense bfloat16 peak, None where it is not in the table."""
    return next((peak for kind, peak in PEAK_FLOPS.items() if device_kind.startswith(kind)), None)


def flops_per_token(cfg: ModelConfig) -> int:
    """Floating-point operations of a training step per token: 6 a matrix weight, and attention over the mean context.

    Source: Chowdhery et al. 2022, appendix B, with the causal mask's half taken (a query sees T/2 keys on average).
    """
    attention = cfg.d_model * cfg.head_width * (2 * cfg.n_heads + 2 * cfg.kv_heads)
    mlp = cfg.d_model * cfg.ff_width * (3 if cfg.gated else 2)
    seen = cfg.context_length / 2 if cfg.window is None else min(cfg.context_length / 2, cfg.window)
    weights = cfg.n_layers * (attention + mlp) + cfg.d_model * cfg.vocab_size
    return int(6 * weights + 12 * cfg.n_layers * cfg.n_heads * cfg.head_width * seen)


class MetricsFile:
    """metrics.jsonl: one JSON object a line, each on disk before the next step is; and TensorBoard's files if asked."""

    def __init__(self, folder: Path, step: int, tensorboard: bool = False):
        """Go on after `step`: the rows of later steps, which are about to be made again, are dropped."""
        self.path = folder / "metrics.jsonl"
        kept = [row for row in read_rows(self.path) if row["step"] <= step] if step else []
        beside = self.path.with_suffix(".tmp")
        beside.write_text("".join(json.dumps(row) + "\n" for row in kept))
        os.replace(beside, self.path)
        self.last_step = kept[-1]["step"] if kept else -1
        self.seconds = kept[-1].get("seconds", 0.0) if kept else 0.0  # that the kept rows took
        self._file = self.path.open("a")
        self._tensorboard = None
        if tensorboard:
            from tensorboardX import SummaryWriter  # an extra, and slow to import

            self._tensorboard = SummaryWriter(str(folder / "tensorboard"), purge_step=step)

    def write(self, row: dict[str, Any]) -> None:
        """Append a row; a step that is there already is not written twice."""
        if row["step"] <= self.last_step:
            return
        self.last_step = row["step"]
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        if self._tensorboard is not None:
            for name, value in row.items():
                if name != "step":
                    self._tensorboard.add_scalar(name, value, row["step"])

    def close(self) -> None:
        self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The whole rows of a metrics.jsonl; a last line cut short by a crash is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
