"""A train step beside a nanoGPT-shaped PyTorch model: forward, backward, clipping and AdamW, float32, on one CPU.

    python tests/benchmarks/train_step.py [A|B|C ...]

Rounds of both are interleaved; the ratio is taken round by round. The floor is the step's matrix products at the
FLOP/s of one large product measured in the same process. Needs the `parity` extra.
"""

import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from jaxgpt import params as P
from jaxgpt.config import ModelConfig
from jaxgpt.sharding import make_mesh
from jaxgpt.training.causal_lm import OBJECTIVE as causal_lm
from jaxgpt.training.causal_lm import flops_per_token
from jaxgpt.training.config import OptimizerConfig
from jaxgpt.training.optimizer import make_optimizer
from jaxgpt.training.state import init_state
from jaxgpt.training.step import compile_train

SHAPES = {  # name: (layers, heads, width, context, vocabulary, batch, steps a round, rounds)
    "A": (4, 4, 128, 64, 65, 12, 40, 9),
    "B": (6, 6, 384, 256, 65, 16, 4, 5),
    "C": (12, 12, 768, 512, 50257, 2, 2, 4),
}
DISPATCH = 10  # steps a dispatch, as train.py has it


class Block(nn.Module):
    """nanoGPT's block without biases: fused query, key and value; flash attention where PyTorch has it."""

    def __init__(self, heads, width):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x):
        batch, time_, width = x.shape
        q, k, v = (
            y.view(batch, time_, self.heads, -1).transpose(1, 2) for y in self.qkv(self.norm1(x)).split(width, dim=2)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(x.shape)
        x = x + self.out(y)
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Peer(nn.Module):
    """The language model around it: learned positions, tied head."""

    def __init__(self, layers, heads, width, context, vocabulary):
        super().__init__()
        self.token, self.position = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(heads, width) for _ in range(layers))
        self.norm = nn.LayerNorm(width, bias=False)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens, targets):
        x = self.token(tokens) + self.position(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        logits = self.norm(x) @ self.token.weight.T
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def peer_optimizer(model, **options):
    """AdamW with nanoGPT's groups: matrices decay."""
    matrices = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), **options)


def peer_round(shape):
    """A function that runs one round of PyTorch steps."""
    layers, heads, width, context, vocabulary, batch, steps, _ = shape
    model = Peer(layers, heads, width, context, vocabulary)
    optimizer = peer_optimizer(model)
    tokens = torch.randint(vocabulary, (batch, context + 1))

    def run():
        for _ in range(steps):
            loss = model(tokens[:, :-1], tokens[:, 1:])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            loss.item()

    return run


def our_round(shape, **fields):
    """The same of jaxgpt, as train.py runs it, with these fields of the config; and a step's FLOPs."""
    layers, heads, width, context, vocabulary, batch, steps, _ = shape
    cfg = ModelConfig(
        vocab_size=vocabulary, context_length=context, d_model=width, n_layers=layers, n_heads=heads,
        bias=False, **{"activation": "gelu"} | fields,
    )  # fmt: skip
    mesh, declarations = make_mesh(), causal_lm.declare(cfg)
    optimizer = make_optimizer(OptimizerConfig(), 1000, P.decay_mask(declarations))
    state = [init_state(jax.random.key(0), declarations, optimizer, mesh)]
    tokens = np.random.default_rng(0).integers(vocabulary, size=(DISPATCH, batch, context + 1))
    block = {"inputs": jnp.array(tokens[..., :-1]), "targets": jnp.array(tokens[..., 1:])}
    update = compile_train(cfg, causal_lm, optimizer, mesh)

    def run():
        for start in range(0, steps, DISPATCH):
            n = min(DISPATCH, steps - start)
            state[0], metrics = update(state[0], block, n)
            jax.block_until_ready(metrics)

    return run, flops_per_token(cfg) * batch * context


def product_flops() -> float:
    """FLOP/s of a large float32 product here."""
    a, b = jnp.ones((2048, 768)), jnp.ones((768, 3072))
    product = jax.jit(jnp.matmul)
    jax.block_until_ready(product(a, b))
    best = min(_seconds(lambda: jax.block_until_ready(product(a, b))) for _ in range(20))
    return 2 * a.size * b.shape[1] / best


def _seconds(run) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def main() -> None:
    print(f"jax {jax.__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    print("shape  torch ms: median (min)   jaxgpt ms: median (min)   torch/jaxgpt: median   floor ms   floor/jaxgpt")
    for name in sys.argv[1:] or SHAPES:
        shape = SHAPES[name]
        steps, rounds = shape[-2:]
        theirs, (ours, flops) = peer_round(shape), our_round(shape)
        theirs(), ours()
        pairs = np.array([(_seconds(theirs), _seconds(ours)) for _ in range(rounds)]) / steps * 1e3
        (torch_ms, jax_ms), (torch_min, jax_min) = np.median(pairs, 0), pairs.min(0)
        ratio, floor = np.median(pairs[:, 0] / pairs[:, 1]), flops / product_flops() * 1e3
        print(
            f"{name}      {torch_ms:8.1f} ({torch_min:.1f})         {jax_ms:8.1f} ({jax_min:.1f})        {ratio:8.2f}"
            f"             {floor:8.1f}     {floor / jax_ms:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
