"""Speed and memory of jaxgpt.data: python tests/benchmarks/data.py [WHAT] [--gigabytes N] [--tokenizer T]

prepare: one file of varied text, made in a temporary folder; prints MB/s and the peak memory of the preparing process.
batches: microseconds to gather batches of 12 x 64 tokens from 100 million memory-mapped ones.
masked: milliseconds for 10 batches of 256 x 128 tokens, masked.
pairs: milliseconds for 10 batches of 128 of 100,000 pairs, and their padding; with --pairs PREFIX --source S --target T
    of the pairs in these files.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from jaxgpt.data import DataConfig, MaskedBatches, Masking, TrainBatches, TrainPairBatches, prepare, prepare_pairs
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


def milliseconds(batches, k: int, n: int) -> float:
    times = []
    for i in range(n):
        start = time.perf_counter()
        batches.block(i * k, k)
        times.append(time.perf_counter() - start)
    return np.median(times) * 1e3


def time_masked() -> None:
    rng, vocab_size = np.random.default_rng(0), 8000
    tokens = rng.integers(5, vocab_size, size=10**6).astype(np.uint16)
    masking = Masking(2, 3, 4, np.arange(vocab_size) < 5)
    for what, continues in {"tokens": None, "whole words": rng.random(vocab_size) < 0.3}.items():
        for sampling in ("random", "epochs"):
            how = replace(masking, continues=continues)
            batches = MaskedBatches(tokens, how, context_length=128, batch_size=256, seed=0, sampling=sampling)
            print(f"{what}, {sampling}: {milliseconds(batches, 10, 20):.1f} ms for 10 batches of 256 x 128")


def time_pairs(path: str | None, source: str, target: str, vocab_size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        if path is None:
            path, rng = f"{folder}/made.tsv", np.random.default_rng(0)
            lengths = rng.lognormal(2.5, 0.5, size=100_000) * rng.lognormal(0, 0.15, size=(2, 100_000)) + 1
            words = [[" ".join(["word"] * int(n)) for n in side] for side in lengths]
            Path(path).write_text("".join(f"{a}\t{b}\n" for a, b in zip(*words, strict=True)))
        config = DataConfig(path=path, source=source, target=target, vocab_size=vocab_size)
        data = prepare_pairs(config, Path(folder))
        mean = data.train.source.lengths.mean(), data.train.target.lengths.mean()
        print(f"vocabulary {vocab_size}: {mean[0]:.2f} source and {mean[1]:.2f} target tokens on average")
        for buckets in (1, 6):
            batches = TrainPairBatches(data.train, batch_size=128, seed=0, buckets=buckets)
            took = milliseconds(batches, 10, 200)
            print(f"{buckets} buckets: {batches.padding():.1%} padding, {took:.2f} ms for 10 batches of 128 pairs")


def main() -> None:
    if sys.argv[1:2] == [MEASURED]:
        return measure(*sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["prepare", "batches", "masked", "pairs"])
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--tokenizer", default="bpe")
    parser.add_argument("--pairs")
    parser.add_argument("--source", default="source")
    parser.add_argument("--target", default="target")
    parser.add_argument("--vocab_size", type=int, default=6000)
    args = parser.parse_args()
    parts = {
        "batches": time_batches,
        "masked": time_masked,
        "pairs": lambda: time_pairs(args.pairs, args.source, args.target, args.vocab_size),
        "prepare": lambda: time_prepare(args.gigabytes, args.tokenizer),
    }
    for name, part in parts.items():
        if args.what in (name, None):
            part()


if __name__ == "__main__":
    main()
