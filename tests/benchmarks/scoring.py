"""Few-shot classification by log-likelihood with a GPT-2 124M shape: seconds, beside full forwards and transformers.

    python tests/benchmarks/scoring.py --data FILE [--queries 32] [--shots 16] [--rounds 3] [--alone]

FILE: sentence TAB label (0 or 1) under a line of names, as SST-2's train.tsv(.gz). Float32, random weights (time does
not depend on them), one BPE trained on the sentences for all, and one row for continuations that differ in their last
token only, as lm-evaluation-harness has it. In interleaved rounds:

    jaxgpt          `loglikelihoods`: the examples once, the queries as trees
    full            a jitted full forward for each row, logits at the scored places only
    transformers    the same in PyTorch
    transformers*   the examples once, in a DynamicCache that is then repeated for a batch of queries

--alone leaves the last two out (no torch needed).
"""

import argparse
import functools
import gzip
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt import config, gpt
from jaxgpt.model import prepare
from jaxgpt.prompting import choose_shots, few_shot
from jaxgpt.rows import power_of_two
from jaxgpt.scoring import encode_pairs, loglikelihoods
from jaxgpt.tokenizers import BPETokenizer

TEMPLATE, WORDS = "Review: {text}\nSentiment: {label}", ("negative", "positive")
BATCH = 8


def read(path: Path) -> list[dict[str, str]]:
    text = (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8").read()
    rows = (line.rsplit("\t", 1) for line in text.splitlines()[1:])
    return [{"text": sentence.strip(), "label": WORDS[int(label)]} for sentence, label in rows]


def batches(pairs):
    """(rows, lengths, the places whose logits are scored, which pair is where): like lengths together."""
    rows = sorted({(*context, *continuation[:-1]) for context, continuation in pairs}, key=len)
    for at in range(0, len(rows), BATCH):
        some = rows[at : at + BATCH]
        own = [i for i, (context, rest) in enumerate(pairs) if (*context, *rest[:-1]) in some]
        yield some, [(i, some.index((*pairs[i][0], *pairs[i][1][:-1]))) for i in own]


def gather(found, logprobs, row, first, i, pairs):
    """logprobs: of a row's places from `first` on."""
    context, continuation = pairs[i]
    at = np.arange(len(continuation)) + len(context) - 1 - first
    found[i] = float(logprobs[row, at, list(continuation)].sum())


@functools.partial(jax.jit, static_argnames=("cfg", "last"))
def forward(params, tokens, starts, cfg, last):
    """The log-probabilities at `last` places from each row's start on."""
    x, _ = gpt.hidden(params, tokens, cfg)
    x = jnp.take_along_axis(x, (starts[:, None] + jnp.arange(last))[..., None], 1)
    return jax.nn.log_softmax(gpt.head(params, x, cfg))


def full(params, pairs, cfg):
    found, last = np.zeros(len(pairs)), power_of_two(max(len(continuation) for _, continuation in pairs))
    for rows, own in batches(pairs):
        tokens = np.zeros((BATCH, -(-(max(map(len, rows)) + last) // 32) * 32), np.int32)
        for row, text in zip(tokens, rows, strict=False):
            row[: len(text)] = text
        starts = np.zeros(BATCH, int)
        for i, row in own:
            starts[row] = len(pairs[i][0]) - 1
        logprobs = np.asarray(forward(params, tokens, starts, cfg, last))
        for i, row in own:
            gather(found, logprobs, row, starts[row], i, pairs)
    return found


def peer(params, cfg):
    """(a full forward for each row; the shared prefix in a cache) on the same weights."""
    import torch
    from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config()).eval()
    names = dict(model.named_parameters())

    def put(name, array):
        names[name].data = torch.tensor(np.asarray(array).reshape(names[name].shape))

    put("transformer.wte.weight", params["embedding"]["token"])
    put("transformer.wpe.weight", params["embedding"]["position"])
    for leaf, path in (("scale", "weight"), ("bias", "bias")):
        put(f"transformer.ln_f.{path}", params["final_norm"][leaf])
        for i, layer in enumerate(params["layers"]):
            put(f"transformer.h.{i}.ln_1.{path}", layer["attention_norm"][leaf])
            put(f"transformer.h.{i}.ln_2.{path}", layer["mlp_norm"][leaf])
    for i, layer in enumerate(params["layers"]):
        for leaf, path in (("kernel", "weight"), ("bias", "bias")):
            at, width = f"transformer.h.{i}", cfg.d_model
            three = [np.asarray(layer["attention"][x][leaf]) for x in ("query", "key", "value")]
            three = [x.reshape(width, width) if leaf == "kernel" else x.reshape(-1) for x in three]
            put(f"{at}.attn.c_attn.{path}", np.concatenate(three, -1))
            put(f"{at}.attn.c_proj.{path}", layer["attention"]["output"][leaf])
            put(f"{at}.mlp.c_fc.{path}", layer["mlp"]["up"][leaf])
            put(f"{at}.mlp.c_proj.{path}", layer["mlp"]["down"][leaf])
    model.tie_weights()

    def right(rows):
        width = max(map(len, rows))
        tokens = torch.zeros(len(rows), width, dtype=torch.long)
        for row, text in zip(tokens, rows, strict=True):
            row[: len(text)] = torch.tensor(text)
        return tokens

    @torch.no_grad()
    def whole(pairs):
        found = np.zeros(len(pairs))
        for rows, own in batches(pairs):
            states = model.transformer(right(rows)).last_hidden_state
            for i, row in own:
                start, n = len(pairs[i][0]) - 1, len(pairs[i][1])
                logprobs = model.lm_head(states[row : row + 1, start : start + n]).log_softmax(-1).numpy()
                gather(found, logprobs, 0, start, i, pairs)
        return found

    @torch.no_grad()
    def cached(pairs):
        found, contexts = np.zeros(len(pairs)), [context for context, _ in pairs]
        shared = next(i for i, tokens in enumerate(zip(*contexts, strict=False)) if len(set(tokens)) > 1)
        once = model(torch.tensor([contexts[0][:shared]]), use_cache=True, logits_to_keep=1).past_key_values
        for rows, own in batches(pairs):
            cache = DynamicCache([(layer.keys, layer.values) for layer in once.layers])
            cache.batch_repeat_interleave(len(rows))
            tokens = right([row[shared:] for row in rows])
            states = model.transformer(tokens, past_key_values=cache, use_cache=True).last_hidden_state
            for i, row in own:
                start, n = len(pairs[i][0]) - 1 - shared, len(pairs[i][1])
                logprobs = model.lm_head(states[row : row + 1, start : start + n]).log_softmax(-1).numpy()
                gather(found, logprobs, 0, start + shared, i, pairs)
        return found

    return whole, cached


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--queries", type=int, default=32)
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--alone", action="store_true")
    args = parser.parse_args()

    examples = read(args.data)
    tokenizer = BPETokenizer.train([example["text"] for example in examples], 8192)
    shots = choose_shots(examples[args.queries :], args.shots)
    prompts = [few_shot(TEMPLATE, query, shots) for query in examples[: args.queries]]
    pairs = encode_pairs(tokenizer, [(prompt, word) for prompt in prompts for word in WORDS])
    longest, tokens = max(len(context) for context, _ in pairs), sum(len(context) for context, _ in pairs[::2])
    print(f"{args.queries} queries, {args.shots} shots: {tokens:,} tokens, at most {longest} a prompt")

    cfg = config.gpt2("124M")
    params = prepare(gpt.init(jax.random.key(0), cfg), cfg.dtype)
    runs = {
        "jaxgpt": lambda: np.array([one.nats for one in loglikelihoods(params, pairs, cfg)]),
        "full": lambda: full(params, pairs, cfg),
    }
    if not args.alone:
        whole, cached = peer(params, cfg)
        runs |= {"transformers": lambda: whole(pairs), "transformers*": lambda: cached(pairs)}
    found = {name: run() for name, run in runs.items()}  # compiles
    for name, values in found.items():
        print(f"{name:13}  largest difference {np.abs(values - found['full']).max():.1e} nats")
    seconds = {name: [] for name in runs}
    for _ in range(args.rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    ours = np.median(seconds["jaxgpt"])
    for name, times in seconds.items():
        middle = np.median(times)
        print(f"{name:13}  median {middle:6.2f} s  min {min(times):6.2f} s  / jaxgpt {middle / ours:.2f}")


if __name__ == "__main__":
    main()
