"""The classes of texts, or of pairs of texts, by a model that was trained to tell them."""

import functools
from collections.abc import Sequence
from typing import Literal, get_args

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxgpt import bert, gpt
from jaxgpt.bars import shown
from jaxgpt.checks import require
from jaxgpt.config import ModelConfig
from jaxgpt.model import Model
from jaxgpt.rows import Text, batches, framed

Scores = Literal["softmax", "sigmoid", "none"]


def classify_texts(
    model: Model,
    texts: Text | Sequence[Text],
    *,
    scores: Scores | None = None,
    max_tokens: int | None = None,
    batch_size: int = 64,
    progress: bool = False,
) -> Float[np.ndarray, "*texts classes"]:
    """The float32 probability of each class, in the order of settings.labels, for a text; of several, a row for each.

    texts: of a pair of texts, which entails which say, a tuple.
    scores: what becomes of the logits; none leaves them (None: softmax, but sigmoid where there is one class).
    max_tokens: where a text is cut, of a pair the longer (None: one over context_length is refused).
    batch_size: texts read at once, those of like length together; in float32 no result depends on it.
    progress: show a bar, on a terminal.
    Raises ValueError, before any work, for a model that classifies no texts, and for a text that is too long.
    Sources: Devlin et al. 2019, section 4.1, of an encoder; Radford et al. 2018, section 3.2, of a decoder.
    """
    cfg = model.inference_config
    require(cfg.head == "sequence", "model.head", cfg.head, "sequence, to classify texts")
    known = get_args(Scores)
    require(scores is None or scores in known, "scores", scores, f"one of {', '.join(known)}")
    require(batch_size >= 1, "batch_size", batch_size, "a positive integer")
    alone = isinstance(texts, str | tuple)
    rows, segments, _ = framed(model.tokenizer, [texts] if alone else texts, cfg.context_length, max_tokens)

    scores = scores or ("sigmoid" if cfg.n_classes == 1 else "softmax")
    found = np.zeros((len(rows), cfg.n_classes), np.float32)
    for chosen, tokens, real in shown(list(batches(rows, cfg.context_length, batch_size)), "classes", progress):
        which = np.zeros_like(tokens)
        which[real] = np.concatenate([segments[i] for i in chosen])
        found[chosen] = _classify(model.inference_params, tokens, real, which, cfg, scores)[: len(chosen)]
    return found[0] if alone else found


@functools.partial(jax.jit, static_argnames=("cfg", "scores"))
def _classify(
    params: dict,
    tokens: Int[Array, "batch time"],
    mask: Bool[Array, "batch time"],
    segments: Int[Array, "batch time"],
    cfg: ModelConfig,
    scores: Scores,
) -> Float[Array, "batch classes"]:
    if cfg.architecture == "decoder":
        logits = gpt.classify(params, tokens, cfg, mask=mask)
    else:
        segments = segments if cfg.n_segments > 1 else None  # DistilBERT and RoBERTa tell no segments
        logits = bert.classify(params, tokens, cfg, mask=mask, segments=segments)
    return {"softmax": jax.nn.softmax, "sigmoid": jax.nn.sigmoid, "none": lambda x: x}[scores](logits)
