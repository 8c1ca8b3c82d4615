"""Log-likelihoods are those of a full forward for each text, however prefixes are shared and rows packed."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import SCHEMES, TINY, apply, draw

from jaxgpt import decoding, gpt, scoring
from jaxgpt.model import Model
from jaxgpt.scoring import classify, encode_pairs, loglikelihoods, score
from jaxgpt.tokenizers import BPETokenizer, CharTokenizer

CONTEXT = TINY.context_length
SHAPES = SCHEMES | {
    "window": replace(SCHEMES["rotary"], window=4),
    "a kv head each": replace(TINY, n_kv_heads=None),
    "scanned": replace(TINY, scan_layers=True),
}


def by_hand(params, pairs, cfg):
    """A row for each text, padded behind, where a causal model does not look; every logit in float64."""
    rows = np.zeros((len(pairs), cfg.context_length), int)
    for row, (context, continuation) in zip(rows, pairs, strict=True):
        text = [*context, *continuation][:-1]
        row[: len(text)] = text
    logits = np.asarray(apply(params, jnp.array(rows), cfg), np.float64)
    found = []
    for row, (context, continuation) in zip(logits, pairs, strict=True):
        row = row[len(context) - 1 :][: len(continuation)]
        of_tokens = row[np.arange(len(row)), list(continuation)]
        greedy = (row.argmax(-1) == list(continuation)).all()
        found.append(((of_tokens - np.log(np.exp(row).sum(-1))).sum(), greedy))
    return found


def same(found, wanted, atol=1e-5):
    np.testing.assert_allclose([one.nats for one in found], [nats for nats, _ in wanted], atol=atol, rtol=1e-6)
    assert [one.greedy for one in found] == [greedy for _, greedy in wanted]


def pairs_of(shared, seed=0):
    """Contexts of many lengths after `shared` tokens, in no order, each with continuations of one to a few tokens."""
    rng = np.random.default_rng(seed)
    start = rng.integers(0, 23, shared).tolist()
    pairs = []
    for length in (1, 5, 3, CONTEXT - shared, 2, 1, 4):
        context = start + rng.integers(0, 23, length).tolist()
        for more in (1, 3, 2):
            more = min(more, CONTEXT + 1 - len(context))
            pairs.append((context, rng.integers(0, 23, more).tolist()))
    whole = start + rng.integers(0, 23, 5).tolist()
    # One the beginning of another, the same twice, parted late, and a context that is another's with its continuation.
    pairs += [(whole, [1, 2, 3]), (whole, [1]), (whole, [1, 2, 3]), (whole, [1, 2, 4, 5]), ([*whole, 1, 2], [4, 5])]
    return pairs


@pytest.mark.parametrize("name", SHAPES)
def test_they_are_those_of_a_full_forward(name):
    cfg = SHAPES[name]
    params = draw(gpt.declare(cfg))
    for shared in (0, 6):
        pairs = pairs_of(shared)
        same(loglikelihoods(params, pairs, cfg), by_hand(params, pairs, cfg))
