"""Seconds to train and MB/s to encode on tiny Shakespeare, beside the tokenizers library's BPE of the same size.

    python -m tests.benchmarks.tokenizer_speed

Not called tokenizers.py: Python would import that in place of the library.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

import tokenizers as library

from jaxgpt.tokenizers import BPETokenizer, CharTokenizer, JSONTokenizer, WordTokenizer

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def best_seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """The shortest of several runs."""

    def once() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return min(once() for _ in range(repeats))


def main() -> None:
    os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(DATA / "tiktoken_cache"))
    text = (DATA / "tinyshakespeare/input.txt").read_text()
    lines = text.splitlines(keepends=True)
    megabytes = len(text.encode()) / 1e6

    peer = library.Tokenizer(library.models.BPE())
    peer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = library.trainers.BpeTrainer(
        vocab_size=1023, initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    print(f"train 1,024 tokens   jaxgpt  {best_seconds(lambda: BPETokenizer.train(lines, 1024), 3):6.2f} s")
    print(f"train 1,024 tokens   library {best_seconds(lambda: peer.train_from_iterator(lines, trainer), 3):6.2f} s")

    tokenizers = {
        "char": CharTokenizer.train(text),
        "word": WordTokenizer.train(text),
        "bpe 1,024": BPETokenizer.train(lines, 1024),
        "tiktoken:gpt2": BPETokenizer.from_tiktoken("gpt2"),
        "json: stories260K": JSONTokenizer.from_folder(DATA / "stories260K"),
    }
    works = {name: (tokenizer.encode, tokenizer.encode_batch) for name, tokenizer in tokenizers.items()}
    works["library: bpe 1,024"] = (peer.encode, peer.encode_batch)
    blocks = ["".join(lines[start : start + 1000]) for start in range(0, len(lines), 1000)]
    print(f"\n{'MB/s':20} {'one text':>10} {'batch of ' + str(len(blocks)):>12}")
    for name, (encode, encode_batch) in works.items():
        one, batch = best_seconds(lambda: encode(text), 3), best_seconds(lambda: encode_batch(blocks), 3)  # noqa: B023
        print(f"{name:20} {megabytes / one:10.1f} {megabytes / batch:12.1f}")


if __name__ == "__main__":
    main()
