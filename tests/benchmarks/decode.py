"""Greedy decoding of a GPT-2 124M shape, beside transformers' `generate`: milliseconds a step, in interleaved rounds.

    python tests/benchmarks/decode.py [--batch 1 8] [--rounds 7] [--alone]

Prompt 32, 64 new tokens, float32, random weights (time does not depend on them). The floor is a reading of every weight
that a step needs, once, at the speed of a large copy measured here. --alone leaves the peer out (no torch needed).
"""

import argparse
import time

import jax
import numpy as np

from jaxgpt import config, gpt, params
from jaxgpt.generation import generate_tokens
from jaxgpt.model import prepare

PROMPT, NEW = 32, 64


def ours(cfg, weights, tokens):
    prompts = tokens.tolist()
    return lambda: generate_tokens(weights, prompts, cfg, max_new_tokens=NEW)


def peer(cfg, tokens):
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config()).eval()
    prompts = torch.tensor(tokens)
    options = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "pad_token_id": 0}

    def run():
        with torch.no_grad():
            model.generate(prompts, attention_mask=torch.ones_like(prompts), **options)

    return run


def bandwidth() -> float:
    """Bytes a second that a copy of 256 MB reads and writes."""
    source = np.ones(1 << 25)
    target = np.zeros_like(source)
    return 2 * source.nbytes / min(timed(lambda: np.copyto(target, source)) for _ in range(5))


def timed(run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--alone", action="store_true")
    args = parser.parse_args()

    cfg = config.gpt2("124M")
    weights = prepare(gpt.init(jax.random.key(0), cfg), cfg.dtype)
    floor = 4 * (params.count(gpt.declare(cfg)) - cfg.context_length * cfg.d_model) / bandwidth() * 1e3
    for batch in args.batch:
        tokens = np.random.default_rng(0).integers(0, cfg.vocab_size, (batch, PROMPT))
        runs = {"jaxgpt": ours(cfg, weights, tokens)}
        if not args.alone:
            runs["transformers"] = peer(cfg, tokens)
        for run in runs.values():
            run()
        times = {name: [] for name in runs}
        for _ in range(args.rounds):
            for name, run in runs.items():
                times[name].append(timed(run) / NEW * 1e3)
        for name, ms in times.items():
            print(f"batch {batch}  {name:12}  min {min(ms):6.1f}  median {np.median(ms):6.1f} ms a step", flush=True)
        if not args.alone:
            low, middle = (f(times["transformers"]) / f(times["jaxgpt"]) for f in (min, np.median))
            print(f"batch {batch}  ratio         min {low:6.2f}  median {middle:6.2f}")
        print(f"batch {batch}  floor {floor:.1f} ms, of which achieved {floor / min(times['jaxgpt']):.0%}")


if __name__ == "__main__":
    main()
