"""A train step of BERT and of the encoder-decoder beside transformers': forward, backward, clipping, AdamW, on a CPU.

    python tests/benchmarks/encoder_step.py [bert|transformer ...]

bert: BERT base, 8 x 128 tokens, 15 % of them masked. transformer: configs/translate_multi30k.py's shape, 128 pairs of
18 and 19 tokens, as a Pegasus (pre-norm, sinusoidal). float32, dropout 0.1. Rounds are interleaved; the ratio is taken
round by round. The floor is the matrix products that the step needs at the FLOP/s of a large one measured here. Needs
the `parity` extra.
"""

import dataclasses
import runpy
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from train_step import DISPATCH, _seconds, product_flops

from jaxgpt import config as presets
from jaxgpt import params as P
from jaxgpt.sharding import make_mesh
from jaxgpt.training import objectives
from jaxgpt.training.config import OptimizerConfig
from jaxgpt.training.optimizer import make_optimizer
from jaxgpt.training.state import init_state
from jaxgpt.training.step import compile_train

ROOT = Path(__file__).resolve().parents[2]
MULTI30K = runpy.run_path(str(ROOT / "configs" / "translate_multi30k.py"))["config"].model
RNG = np.random.default_rng(0)


def bert():
    """(our config, objective, a block, the peer's step, operations a step, steps a round)"""
    cfg, batch, time, masked = dataclasses.replace(presets.bert("base"), head="lm"), 8, 128, 19
    tokens = RNG.integers(cfg.vocab_size, size=(DISPATCH, batch, time)).astype(np.int32)
    positions = np.stack([RNG.permutation(time)[:masked] for _ in range(DISPATCH * batch)])
    positions = positions.reshape(DISPATCH, batch, masked).astype(np.int32)
    block = {"inputs": tokens, "positions": positions, "targets": np.take_along_axis(tokens, positions, 2)}
    model = transformers.BertForMaskedLM(transformers.BertConfig())
    labels = np.full((batch, time), -100)
    np.put_along_axis(labels, positions[0].astype(np.int64), block["targets"][0], 1)
    inputs = {"input_ids": torch.tensor(tokens[0]).long(), "labels": torch.tensor(labels).long()}
    width, rows = cfg.d_model, batch * time
    layer = rows * (4 * width**2 + 2 * width * cfg.ff_width) + 2 * rows * time * width
    head = batch * masked * (width**2 + width * cfg.vocab_size)
    return cfg, "masked_lm", block, peer_step(model, inputs), 6 * (cfg.n_layers * layer + head), 2


def transformer():
    """As `bert`."""
    cfg, batch, source, target = dataclasses.replace(MULTI30K, dropout=0.1, label_smoothing=0.0), 128, 18, 19
    shape = (DISPATCH, batch)
    block = {
        "source": RNG.integers(cfg.vocab_size, size=(*shape, source)).astype(np.int32),
        "source_mask": np.ones((*shape, source), bool),
        "inputs": RNG.integers(cfg.vocab_size, size=(*shape, target)).astype(np.int32),
        "targets": RNG.integers(cfg.vocab_size, size=(*shape, target)).astype(np.int32),
        "weights": np.ones((*shape, target), np.float32),
    }
    model = transformers.PegasusForConditionalGeneration(pegasus_config(cfg))
    inputs = {
        "input_ids": torch.tensor(block["source"][0]).long(),
        "attention_mask": torch.ones(batch, source).long(),
        "decoder_input_ids": torch.tensor(block["inputs"][0]).long(),
        "labels": torch.tensor(block["targets"][0]).long(),
    }
    width = cfg.d_model
    mlp = 2 * width * cfg.ff_width
    encoder = source * cfg.encoder_layers * (4 * width**2 + mlp + 2 * source * width)
    decoder = target * cfg.n_layers * (6 * width**2 + mlp + 2 * (target / 2 + source) * width)
    rest = source * cfg.n_layers * 2 * width**2 + target * width * cfg.vocab_size
    return cfg, "seq2seq", block, peer_step(model, inputs), 6 * batch * (encoder + decoder + rest), 6


def pegasus_config(cfg) -> transformers.PegasusConfig:
    """transformers' own pre-norm Transformer with sinusoidal positions, in this shape."""
    return transformers.PegasusConfig(
        vocab_size=cfg.vocab_size,
        max_position_embeddings=cfg.context_length,
        d_model=cfg.d_model,
        encoder_layers=cfg.encoder_layers,
        decoder_layers=cfg.n_layers,
        encoder_attention_heads=cfg.n_heads,
        decoder_attention_heads=cfg.n_heads,
        encoder_ffn_dim=cfg.ff_width,
        decoder_ffn_dim=cfg.ff_width,
        activation_function=cfg.activation,
        scale_embedding=True,
        dropout=cfg.dropout,
        attention_dropout=cfg.dropout,
    )


def peer_step(model, inputs):
    """A function that makes one PyTorch update."""
    model.train()
    matrices = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-4)

    def step():
        loss = model(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()

    return step


def our_steps(cfg, name, block):
    """A function that makes n of our updates, as train.py does."""
    mesh, objective = make_mesh(), objectives.find(name)
    declarations = objective.declare(cfg)
    optimizer = make_optimizer(OptimizerConfig(), 1000, P.decay_mask(declarations))
    state = [init_state(jax.random.key(0), declarations, optimizer, mesh)]
    update, block = compile_train(cfg, objective, optimizer, mesh), jax.tree.map(jnp.asarray, block)

    def run(n):
        state[0], metrics = update(state[0], block, n)
        jax.block_until_ready(metrics)

    return run


def main() -> None:
    print(f"jax {jax.__version__}, torch {torch.__version__}, transformers {transformers.__version__}")
    print("model        transformers ms: median (min)  jaxgpt ms: median (min)  ratio: median  floor ms  floor/jaxgpt")
    for name in sys.argv[1:] or ["bert", "transformer"]:
        cfg, objective, block, theirs, flops, steps = {"bert": bert, "transformer": transformer}[name]()
        ours = our_steps(cfg, objective, block)
        theirs(), ours(1)
        pairs = []
        for _ in range(5):
            peer = _seconds(lambda: [theirs() for _ in range(steps)])  # noqa: B023
            pairs.append((peer, _seconds(lambda: ours(steps))))  # noqa: B023
        pairs = np.array(pairs) / steps * 1e3
        (peer_ms, our_ms), (peer_min, our_min) = np.median(pairs, 0), pairs.min(0)
        ratio, floor = np.median(pairs[:, 0] / pairs[:, 1]), flops / product_flops() * 1e3
        print(
            f"{name:12} {peer_ms:16.1f} ({peer_min:.1f}) {our_ms:16.1f} ({our_min:.1f}) {ratio:14.2f} {floor:10.1f}"
            f" {floor / our_ms:8.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
