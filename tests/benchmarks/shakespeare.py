"""The whole Shakespeare run beside the same in PyTorch: seconds of wall time and validation loss, in turn.

    python tests/benchmarks/shakespeare.py input.txt [--rounds 3]

Both as processes of their own, from raw text: start-up, compiling, evaluations, checkpoints and logs included. The peer
is nanoGPT's experiment for a CPU in its manner: batches stacked in Python, the loss read at every step, evaluated on 20
batches of both parts every 250 steps, saved when it is the best. Both end with the mean over the same 200 batches.
jaxgpt's compiled programs are kept from run to run, as train.py keeps them. Needs the `parity` extra.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
STEPS, WARMUP, BATCH, LENGTH, HIGH, LOW = 2000, 100, 12, 64, 1e-3, 1e-4


def peer(text_path: str, folder: Path, seed: int) -> float:
    """Train in PyTorch; the validation loss over 200 evenly spread batches."""
    import torch
    from train_step import Peer

    torch.manual_seed(seed)
    text = Path(text_path).read_text()
    characters = sorted(set(text))
    tokens = np.array([characters.index(c) for c in text], np.int64)
    cut = int(0.9 * len(tokens))
    parts = {"train": tokens[:cut], "val": tokens[cut:]}
    model = Peer(4, 4, 128, LENGTH, len(characters))
    for name, parameter in model.named_parameters():
        if name.endswith(("out.weight", "down.weight")):  # residual outputs, GPT-2's deviation
            torch.nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * 4))
    matrices = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=HIGH, betas=(0.9, 0.99))

    def windows(part, starts):
        rows = torch.stack([torch.from_numpy(parts[part][i : i + LENGTH + 1]) for i in starts])
        return rows[:, :-1], rows[:, 1:]

    def draw(part):
        return windows(part, torch.randint(len(parts[part]) - LENGTH, (BATCH,)))

    @torch.no_grad()
    def mean(batches):
        return float(np.mean([model(*batch).item() for batch in batches]))

    best = math.inf
    for step in range(STEPS + 1):
        progress = (step - WARMUP) / (STEPS - WARMUP)
        rate = HIGH * (step + 1) / (WARMUP + 1) if step < WARMUP else LOW
        if step >= WARMUP:
            rate += 0.5 * (1 + math.cos(math.pi * progress)) * (HIGH - LOW)
        for group in optimizer.param_groups:
            group["lr"] = rate
        if step % 250 == 0:
            train, val = (mean(draw(part) for _ in range(20)) for part in ("train", "val"))
            print(f"step {step}: train {train:.4f}, val {val:.4f}", file=sys.stderr)
            if val < best and step:
                torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, folder / "best.pt")
            best = min(best, val)
        if step == STEPS:
            break
        loss = model(*draw("train"))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        print(f"step {step}: loss {loss.item():.4f}", file=sys.stderr)
    starts = np.arange(200 * BATCH) * (len(parts["val"]) - LENGTH) // (200 * BATCH)
    return mean(windows("val", rows) for rows in starts.reshape(-1, BATCH))


def run(command: list[str]) -> tuple[float, str]:
    """(seconds, what it printed) of a whole process."""
    begun = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return time.perf_counter() - begun, done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", type=int, metavar="SEED", help="run the peer alone, in this process")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.peer is not None:
            print(peer(args.text, Path(folder), args.peer))
            return
        seconds = []
        for seed in range(args.rounds):
            theirs, loss = run([sys.executable, __file__, args.text, "--peer", str(seed)])
            command = [sys.executable, str(ROOT / "train.py"), str(ROOT / "configs" / "shakespeare_char.py")]
            out = Path(folder) / f"run{seed}"
            ours, _ = run([*command, "--data.path", args.text, "--train.seed", str(seed), "--out", str(out)])
            row = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
            seconds.append((theirs, ours))
            print(
                f"seed {seed}  torch {theirs:5.1f} s, loss {float(loss):.4f}   jaxgpt {ours:5.1f} s, "
                f"loss {row['val_loss']:.4f}   jaxgpt/torch {ours / theirs:.2f}",
                flush=True,
            )
        print(f"median of jaxgpt/torch: {np.median([ours / theirs for theirs, ours in seconds]):.2f}")


if __name__ == "__main__":
    main()
