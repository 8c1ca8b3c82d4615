"""GPT-2 124M on one GPU beside PyTorch: training steps and greedy decoding in bfloat16, in interleaved rounds.

    python tests/benchmarks/gpu.py [--train 32] [--decode 1 8 64] [--rounds 5]

A training step is 32 x 1024 tokens (--train 0: none), the peer nanoGPT's model under torch.compile and autocast, with
flash attention and fused AdamW. Decoding makes 64 tokens after 32, beside transformers' `generate` with its defaults.
Floors: the model's FLOPs at the speed of a large product; one reading of the weights at the speed of a large copy.
Needs the `cuda` extra, PyTorch for CUDA and transformers.
"""

import argparse
import functools
import os
from dataclasses import replace

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the card is the peer's too

import jax
import jax.numpy as jnp
import numpy as np
import torch
from decode import timed
from train_step import Peer, our_round, peer_optimizer

from jaxgpt import config, gpt
from jaxgpt import params as P
from jaxgpt.generation import generate_tokens
from jaxgpt.model import prepare

STEPS, PROMPT, NEW = 10, 32, 64
GPT2 = replace(config.gpt2("124M"), vocab_size=50304, bias=False, dtype="bfloat16")


def peer_steps(batch: int):
    torch.set_float32_matmul_precision("high")
    model = Peer(12, 12, 768, 1024, GPT2.vocab_size).cuda()
    optimizer = peer_optimizer(model, fused=True)
    compiled = torch.compile(model)
    tokens = torch.randint(GPT2.vocab_size, (STEPS, batch, 1025), device="cuda")

    def run():
        for rows in tokens:
            with torch.autocast("cuda", torch.bfloat16):
                loss = compiled(rows[:, :-1], rows[:, 1:])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()

    return run


def peer_text(tokens):
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=GPT2.vocab_size)).to("cuda", torch.bfloat16).eval()
    prompts = torch.tensor(tokens, device="cuda")
    options = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "pad_token_id": 0}

    def run():
        with torch.no_grad():
            model.generate(prompts, attention_mask=torch.ones_like(prompts), **options)
        torch.cuda.synchronize()

    return run


def ceilings() -> tuple[float, float]:
    """FLOP/s of a large bfloat16 product, and bytes/s that a large copy reads and writes."""
    a = jax.random.normal(jax.random.key(0), (8192, 8192), jnp.bfloat16)
    product, copy = jax.jit(jnp.matmul), jax.jit(jnp.negative)
    wide = jnp.ones((1 << 30,), jnp.bfloat16)

    def best(run, n):
        jax.block_until_ready(run())
        return min(timed(lambda: jax.block_until_ready([run() for _ in range(n)])) / n for _ in range(5))

    return 2 * 8192**3 / best(lambda: product(a, a), 10), 2 * wide.nbytes / best(lambda: copy(wide), 4)


def compare(name: str, theirs, ours, units: int, floor: float, rounds: int) -> None:
    """Print a row: milliseconds a unit of both, medians; the ratio's median; the floor and its share."""
    for _ in range(2):
        theirs(), ours()
    pairs = np.array([(timed(theirs), timed(ours)) for _ in range(rounds)]) / units * 1e3
    (peer_ms, our_ms), ratio = np.median(pairs, 0), np.median(pairs[:, 0] / pairs[:, 1])
    print(f"{name:34} {peer_ms:9.2f} {our_ms:9.2f} {ratio:6.2f} {floor:9.3f} {floor / our_ms:6.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=32)
    parser.add_argument("--decode", type=int, nargs="*", default=[1, 8, 64])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()

    flops, bandwidth = ceilings()
    device = jax.devices()[0].device_kind
    print(f"{device}, jax {jax.__version__}, torch {torch.__version__}: {flops / 1e12:.0f} TFLOP/s, "
          f"{bandwidth / 1e12:.2f} TB/s")  # fmt: skip
    print(f"{'ms a step, medians':34} {'peer':>9} {'jaxgpt':>9} {'ratio':>6} {'floor':>9} {'share':>6}")
    if args.train:
        shape = (12, 12, 768, 1024, GPT2.vocab_size, args.train, STEPS, args.rounds)
        ours, work = our_round(shape, dtype=GPT2.dtype, activation=GPT2.activation)
        floor = work / flops * 1e3
        compare(f"training, {args.train} x 1024 tokens", peer_steps(args.train), ours, STEPS, floor, args.rounds)
        torch.cuda.empty_cache()
    declared = gpt.declare(GPT2)
    weights = prepare(gpt.init(jax.random.key(0), GPT2), GPT2.dtype)
    floor = 2 * (P.count(declared) - GPT2.context_length * GPT2.d_model) / bandwidth * 1e3
    for batch in args.decode:
        tokens = np.random.default_rng(0).integers(0, GPT2.vocab_size, (batch, PROMPT))
        ours = functools.partial(generate_tokens, weights, tokens.tolist(), GPT2, max_new_tokens=NEW)
        compare(f"decoding, batch {batch}", peer_text(tokens), ours, NEW, floor, args.rounds)


if __name__ == "__main__":
    main()
