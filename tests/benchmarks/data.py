"""Speed and memory of jaxgpt.data: python tests/benchmarks/data.py [prepare | batches] [--gigabytes N] [--tokenizer T]

prepare: one file of varied text, made in a temporary folder; prints MB/s and the peak memory of the preparing process.
batches: microseconds to gather batches of 12 x 64 tokens from 100 million memory-mapped ones.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from jaxgpt.data import DataConfig, TrainBatches, prepare
from jaxgpt.data.sources import files, pieces

MEASURED = "--measured"  # in a process of its own: the peak is that of preparing, not of making the text


def write_text(path: Path, size: int) -> None:
    """size bytes: the built-in corpus over and over, its documents in another order each time, with fresh numbers."""
    rng = np.random.default_rng(0)
    documents = [text for _, text in pieces(files("python"))]
    with path.open("w") as stream:
        while stream.tell() < size:
            for i in rng.permutation(len(documents)):
                stream.write(f"# {rng.integers(1 << 62)} {rng.bytes(6).hex()}\n{documents[i]}")
        stream.truncate(size)


def measure(path: str, cache: str, tokenizer: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    data = prepare(DataConfig(path=path, tokenizer=tokenizer), Path(cache))
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    prepare(DataConfig(path=path, tokenizer=tokenizer), Path(cache))
    reopen = time.perf_counter() - start
    megabytes = (data.train_bytes + data.validation_bytes) / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"{tokenizer}: {megabytes:.0f} MB in {seconds:.1f} s = {megabytes / seconds:.1f} MB/s; opened in {reopen:.2f} s"
    )
    print(f"peak memory {peak / 1024:.0f} MiB, {before / 1024:.0f} MiB of it after the imports")


def time_prepare(gigabytes: float, tokenizer: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "text.txt")
        write_text(text, int(gigabytes * 1e9))
        subprocess.run([sys.executable, __file__, MEASURED, str(text), f"{folder}/cache", tokenizer], check=True)


def time_batches() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tokens.bin")
        np.random.default_rng(0).integers(50_000, size=10**8, dtype=np.uint16).tofile(path)
        tokens = np.memmap(path, np.uint16, "r")
        for sampling in ("random", "epochs"):
            batches = TrainBatches(tokens, context_length=64, batch_size=12, seed=0, sampling=sampling)
            for k in (1, 20):
                times = []
                for i in range(2000 // k):
                    start = time.perf_counter()
                    batches.block(i * k, k)
                    times.append((time.perf_counter() - start) / k)
                print(f"{sampling}, {k} steps at once: {np.median(times) * 1e6:.1f} us a batch of 12 x 64")


def main() -> None:
    if sys.argv[1:2] == [MEASURED]:
        return measure(*sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["prepare", "batches"])
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--tokenizer", default="bpe")
    args = parser.parse_args()
    if args.what != "prepare":
        time_batches()
    if args.what != "batches":
        time_prepare(args.gigabytes, args.tokenizer)


if __name__ == "__main__":
    main()
