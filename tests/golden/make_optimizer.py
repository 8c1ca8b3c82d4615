"""Make optimizer.npz beside this script: python tests/golden/make_optimizer.py (needs torch).

100 steps of torch.optim.AdamW under LambdaLR and clip_grad_norm_, in float64, on drawn gradients: for each schedule,
the learning rates, and both parameters (a matrix, decayed; a vector, not) after every tenth step.
"""

import math
from pathlib import Path

import numpy as np
import torch

STEPS, WARMUP, PEAK, LOW = 100, 10, 1e-2, 1e-3


def cosine(step: int) -> float:
    return LOW + (PEAK - LOW) * (1 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP))) / 2


def wsd(step: int) -> float:
    begin = STEPS - 30
    return PEAK if step < begin else PEAK + (LOW - PEAK) * (step - begin) / 30


SCHEDULES = {"cosine": cosine, "wsd": wsd, "constant": lambda step: PEAK}


def rate(name: str, step: int) -> float:
    return PEAK * (step + 1) / (WARMUP + 1) if step < WARMUP else SCHEDULES[name](step)


def main() -> None:
    rng = np.random.default_rng(0)
    start = {"matrix": rng.normal(size=(3, 4)), "vector": rng.normal(size=5)}
    # Of a norm from 0.05 to 5: some are clipped at 1, some not.
    scales = np.geomspace(0.01, 1.0, STEPS)[rng.permutation(STEPS)]
    grads = {name: rng.normal(size=(STEPS, *x.shape)) * scales.reshape(-1, *[1] * x.ndim) for name, x in start.items()}
    grads = {name: x.astype(np.float32) for name, x in grads.items()}
    start = {name: x.astype(np.float32) for name, x in start.items()}
    out = {f"start/{name}": x for name, x in start.items()} | {f"grads/{name}": x for name, x in grads.items()}
    for schedule in SCHEDULES:
        params = {name: torch.nn.Parameter(torch.tensor(x, dtype=torch.float64)) for name, x in start.items()}
        groups = [
            {"params": [params["matrix"]], "weight_decay": 0.3},
            {"params": [params["vector"]], "weight_decay": 0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.95), eps=1e-6)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step, name=schedule: rate(name, step))
        rates, rows = [], {name: [] for name in params}
        for step in range(STEPS):
            for name, x in params.items():
                x.grad = torch.tensor(grads[name][step], dtype=torch.float64)
            torch.nn.utils.clip_grad_norm_(params.values(), 1.0)
            rates.append(scheduler.get_last_lr()[0])
            optimizer.step()
            scheduler.step()
            if step % 10 == 9:
                for name, x in params.items():
                    rows[name].append(x.detach().numpy().copy())
        out[f"{schedule}/rates"] = np.array(rates)
        out |= {f"{schedule}/{name}": np.array(x) for name, x in rows.items()}
    np.savez_compressed(Path(__file__).resolve().parent / "optimizer.npz", **out)


if __name__ == "__main__":
    main()
