"""How well a model predicts a text: perplexity and bits per byte, by windows that move over it."""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from jaxgpt import gpt
from jaxgpt.bars import shown
from jaxgpt.checks import require
from jaxgpt.config import ModelConfig
from jaxgpt.model import Model
from jaxgpt.rotary import switches_at
from jaxgpt.rows import TOKENS, power_of_two
from jaxgpt.sharding import fetch

PLACES = 128  # whose logits are computed at once: 26 MB of GPT-2's


class Perplexity(NamedTuple):
    """Of a text, or of several together."""

    perplexity: float
    """exp(nats)."""
    nats: float
    """The mean over the tokens of -log p(token), natural logarithm."""
    bits_per_byte: float
    """Their sum in bits, for each byte of the text in UTF-8: tokenizers compare."""
    tokens: int
    """Those that were scored."""
    bytes: int


class _Window(NamedTuple):
    """The inputs [start, end) of a text; the tokens after those of [first, last) are scored."""

    text: int
    start: int
    end: int
    first: int
    last: int


def perplexity(
    model: Model,
    texts: str | Sequence[str],
    *,
    context_length: int | None = None,
    stride: int | None = None,
    batch_size: int = 16,
    progress: bool = False,
) -> Perplexity:
    """The perplexity of a decoder on a text, or on several, over none of whose ends a window reaches.

    A text is framed as the tokenizer says (<s> text, Llama's), and every token but the first of that is scored once:
    all of the text's own where there is a start token, else all but the first, whose bytes are counted all the same.
    As in transformers, what looks like a special token in a text is one: WikiText's <unk>.
    A window reads context_length tokens and predicts the one after each; the next begins stride tokens later. Of the
    first window all predictions count, of the others the last stride, so that each of these has
    context_length - stride + 1 tokens before it, or more. stride = 1 gives every token the most context there is, and
    takes longest; stride = context_length reads once.

    context_length, stride: None for the model's, and half of it. batch_size: windows at once, on a CPU fewer where they
    would be more than 2048 tokens; no result depends on it. progress: show a bar, on a terminal.
    Raises ValueError, before any work, for numbers that can't be used, a text without a token to score, and a model
    that is no decoder.
    Source: "Perplexity of fixed-length models" of transformers' documentation. What its code has as max_length is
    context_length + 1 here: there a window's last token is predicted and not read, either.
    """
    cfg = model.inference_config
    require(cfg.architecture == "decoder", "model.architecture", cfg.architecture, "decoder, to predict a text")
    require(cfg.head == "lm", "model.head", cfg.head, "lm, to predict a text")
    length = cfg.context_length if context_length is None else context_length
    require(1 <= length <= cfg.context_length, "context_length", length, f"1..{cfg.context_length}")
    stride = max(1, length // 2) if stride is None else stride
    require(1 <= stride <= length, "stride", stride, f"1..{length}, the context_length")
    require(batch_size >= 1, "batch_size", batch_size, "a positive integer")
    texts = [texts] if isinstance(texts, str) else list(texts)
    require(len(texts) > 0, "texts", "none", "at least one")
    encoded = model.tokenizer.encode_batch(texts, allowed_special="all")
    rows = [np.array(model.tokenizer.frame(ids), np.int32) for ids in encoded]
    for i, row in enumerate(rows):
        require(len(row) > 1, f"text {i}", f"{len(row)} tokens", "at least 2: one to score, and one before it")

    windows = [window for i, row in enumerate(rows) for window in _windows(i, len(row) - 1, length, stride)]
    width = min(length, power_of_two(max(len(row) for row in rows)))
    size = max(1, TOKENS // width) if jax.default_backend() == "cpu" else batch_size
    size = min(size, batch_size, len(windows))
    batches = [windows[at : at + size] for at in range(0, len(windows), size)]
    nats = 0.0
    for batch in shown(batches, "perplexity", progress):
        arrays, scored = _lay_out(batch, rows, size, width, min(stride, width))
        found = _nats(model.inference_params, *arrays, cfg)
        nats += float(fetch(found)[:scored].sum(dtype=np.float64))

    tokens = sum(len(row) - 1 for row in rows)
    n_bytes = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    mean = nats / tokens
    return Perplexity(math.exp(min(mean, 700.0)), mean, nats / math.log(2) / n_bytes, tokens, n_bytes)


def _windows(text: int, inputs: int, length: int, stride: int) -> list[_Window]:
    """Those of a text of so many inputs. At most stride predictions of each count: the first window stands there again
    for every stride of its own, so that all batches have one shape."""
    found = []
    for last in range((length - 1) % stride + 1, inputs + stride, stride):
        start = max(0, last - length)
        found.append(_Window(text, start, min(start + length, inputs), max(0, last - stride), min(last, inputs)))
    return found


def _lay_out(
    batch: Sequence[_Window], rows: Sequence[np.ndarray], size: int, width: int, stride: int
) -> tuple[tuple[np.ndarray, ...], int]:
    """The arguments of `_nats`, and how many of its results count."""
    tokens = np.zeros((size, width), np.int32)
    real = np.zeros(tokens.shape, bool)
    real[:, 0] = True  # of no text too: a softmax over nothing is NaN
    places, targets = [], []
    for i, window in enumerate(batch):
        row = rows[window.text]
        inputs = row[window.start : window.end]
        tokens[i, : len(inputs)], real[i, : len(inputs)] = inputs, True
        places.append(i * width + np.arange(window.first, window.last) - window.start)
        targets.append(row[window.first + 1 : window.last + 1])
    places, targets = np.concatenate(places), np.concatenate(targets)
    room = -(-size * stride // PLACES) * PLACES
    padded = [np.pad(x, (0, room - len(x))).reshape(-1, PLACES).astype(np.int32) for x in (places, targets)]
    return (tokens, real, *padded), len(places)


@functools.partial(jax.jit, static_argnames="cfg")
def _nats(
    params: dict,
    tokens: Int[Array, "rows width"],
    real: Bool[Array, "rows width"],
    places: Int[Array, "parts part"],
    targets: Int[Array, "parts part"],
    cfg: ModelConfig,
) -> Float[Array, "places"]:
    """-log p of the target at each place of tokens, flat."""
    # Padding stands behind the text, where a causal model does not look: only longrope asks how long a row is, and
    # without a mask a GPU computes attention by its fused kernel.
    x, _ = gpt.hidden(params, tokens, cfg, mask=None if switches_at(cfg) is None else real)

    def score(part):
        places, targets = part
        logits = gpt.head(params, x.reshape(-1, cfg.d_model)[places][None], cfg)[0]
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits, targets)

    # A part at a time: the logits of all places would be most of the memory.
    return jax.lax.map(score, (places, targets)).reshape(-1)
