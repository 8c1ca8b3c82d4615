"""Greedy tokens a second of stories260K, and what bounds them: a step's time against its number of kernels.

    python tests/benchmarks/stories.py FOLDER [--batch 1 16] [--new 200] [--rounds 7]

FOLDER: the checkpoint in the layout of Hugging Face. Its 1 MB of weights lies in the cache of one core, so that no
memory bounds a step but what it costs to start each of its operations; an empty one is timed here by a loop of
operations that the compiler can't merge. llama2.c, a C program of one thread, makes 5,300 to 6,800 tokens/s.
"""

import argparse
import re

import jax
import jax.numpy as jnp
import numpy as np
from decode import timed

import jaxgpt
from jaxgpt import decoding
from jaxgpt.attention import KVCache
from jaxgpt.decoding import Rows
from jaxgpt.generation import generate_tokens

CHAIN = 64  # operations of the loop that times an empty one


def kernels_of_a_step(model: jaxgpt.Model, batch: int, slots: int) -> int:
    """Operations that the compiled step of decoding starts: products, fusions, copies, calls."""
    ids = jnp.ones(model.config.vocab_size, bool)
    nothing = jnp.zeros(batch, jnp.int32)
    rows = Rows(nothing, nothing > 0, jax.random.split(jax.random.key(0), batch), nothing, None)
    cache = KVCache.empty(model.inference_config, batch, slots)
    lowered = decoding.decode_chunk.lower(
        model.inference_params, cache, rows, {"temperature": 0.0}, ~ids, ids, jnp.array(9), cfg=model.inference_config
    )
    parts = lowered.compile().as_text().split("\n\n")
    return max(len(re.findall(r" (?:fusion|dot|custom-call|copy|call|while)\(", part)) for part in parts)


def empty_kernel_seconds() -> float:
    """What one operation on 64 numbers costs in a compiled loop."""

    def body(_, x):
        for i in range(CHAIN):
            x = jax.lax.optimization_barrier(jnp.sin(x) + i)
        return x

    run = jax.jit(lambda x: jax.lax.fori_loop(0, 200, body, x))
    x = jnp.ones(64)
    return min(timed(lambda: jax.block_until_ready(run(x))) for _ in range(9)) / 200 / CHAIN


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--new", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    model = jaxgpt.load(args.folder)
    prompt = model.tokenizer.frame(model.tokenizer.encode("Once upon a time"))
    empty = empty_kernel_seconds()
    for batch in args.batch:

        def run(batch=batch):
            found = generate_tokens(
                model.inference_params, [prompt] * batch, model.inference_config, max_new_tokens=args.new
            )
            assert len(found[0]) == args.new

        run(), run()
        times = [timed(run) for _ in range(args.rounds)]
        middle, best = (batch * args.new / f(times) for f in (np.median, min))
        kernels = kernels_of_a_step(model, batch, 256)
        step = min(times) / args.new
        print(
            f"batch {batch}: {middle:,.0f} tokens/s (best {best:,.0f}); a step {step * 1e6:.0f} us, of which {kernels} "
            f"empty operations of {empty * 1e6:.2f} us would be {kernels * empty / step:.0%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
