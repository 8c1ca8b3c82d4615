"""The likeliest tokens of blanks in a text, by an encoder that was trained to fill them in."""

import functools
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxgpt import bert
from jaxgpt.checks import require
from jaxgpt.config import ModelConfig
from jaxgpt.model import Model
from jaxgpt.rows import batches, mask_name, power_of_two
from jaxgpt.tokenizers import Tokenizer

BATCH = 32  # texts at once, those of like length together


@dataclass(frozen=True)
class Candidate:
    """A token that may stand in a blank."""

    token: int
    """Its id."""
    text: str
    """Its text alone; one that goes on within a word shows it (##ing)."""
    probability: float
    """Its share of all tokens."""
    filled: str
    """The whole text, as the tokenizer decodes it, with this token in this blank and every other blank left."""


def fill_mask(
    model: Model, texts: str | Sequence[str], *, top_k: int = 5, among: Collection[int] | None = None
) -> list[list[Candidate]] | list[list[list[Candidate]]]:
    """The top_k likeliest tokens of each blank of a text, the likeliest first; of several texts, a list of that.

    A blank is the tokenizer's mask token, [MASK] say; any other special token in a text is ordinary text. Blanks of
    one text are filled in independently of each other. among: the ids that may be listed (None: all); probabilities are
    shares of all.
    Raises ValueError, before any work, for a text without a blank or longer than context_length, a model that was not
    made to fill in tokens, a tokenizer without a mask token, and a top_k that can't be used.
    Source: Devlin et al. 2019, section 3.1, task 1.
    """
    cfg, tokenizer = model.inference_config, model.tokenizer
    require(cfg.architecture == "encoder", "model.architecture", cfg.architecture, "encoder, to fill in tokens")
    require(cfg.head in ("lm", "pretraining"), "model.head", cfg.head, "lm or pretraining, to fill in tokens")
    all_ids = set(tokenizer.ids)
    ids = all_ids if among is None else set(among)
    require(ids <= all_ids, "among", among, "ids of tokens")
    known, listed = np.zeros((2, cfg.vocab_size), bool)
    known[list(all_ids)], listed[list(ids)] = True, True
    n_tokens = len(ids)
    require(1 <= top_k <= n_tokens, "top_k", top_k, f"1 to {n_tokens}, the number of tokens")
    rows = _rows(tokenizer, [texts] if isinstance(texts, str) else list(texts), cfg)

    found: list[list[list[Candidate]]] = [[] for _ in rows]
    for chosen, tokens, real in batches(rows, cfg.context_length, BATCH):
        blanks = np.argwhere(real & (tokens == tokenizer.mask))
        padded = np.zeros((power_of_two(len(blanks)), 2), np.int32)
        padded[: len(blanks)] = blanks
        scores, ids = (
            np.asarray(x).tolist()
            for x in _likeliest(model.inference_params, tokens, real, padded, known, listed, cfg, top_k)
        )
        for (row, place), *best in zip(blanks.tolist(), scores, ids, strict=False):
            i = chosen[row]
            found[i].append([_candidate(tokenizer, rows[i], place, *one) for one in zip(*best, strict=True)])
    return found[0] if isinstance(texts, str) else found


def _rows(tokenizer: Tokenizer, texts: list[str], cfg: ModelConfig) -> list[list[int]]:
    """Each text's ids, framed. Raises ValueError for one without a blank, or too long."""
    name = mask_name(tokenizer)
    rows = [tokenizer.frame(ids) for ids in tokenizer.encode_batch(texts, allowed_special={name})]
    for i, row in enumerate(rows):
        require(tokenizer.mask in row, f"text {i}", texts[i], f"{name} in it, where a token is to be filled in")
        if len(row) > cfg.context_length:
            added = f", {len(tokenizer.frame([]))} that begin and end it among them"
            raise ValueError(f"text {i}: found {len(row)} tokens, expected at most {cfg.context_length}{added}")
    return rows


@functools.partial(jax.jit, static_argnames=("cfg", "top_k"))
def _likeliest(
    params: dict,
    tokens: Int[Array, "batch time"],
    mask: Bool[Array, "batch time"],
    blanks: Int[Array, "blanks 2"],
    known: Bool[Array, "vocab"],
    listed: Bool[Array, "vocab"],
    cfg: ModelConfig,
    top_k: int,
) -> tuple[Float[Array, "blanks top_k"], Int[Array, "blanks top_k"]]:
    """The probabilities and ids of the likeliest listed tokens at blanks, each a row and a place in it.

    Logits are computed there only.
    """
    states = bert.encode(params, tokens, cfg, mask=mask)[blanks[:, 0], blanks[:, 1]]
    logits = bert.head(params, states[None], cfg)[0]
    shares = jax.nn.softmax(jnp.where(known, logits, -jnp.inf))
    return tuple(jax.lax.top_k(jnp.where(listed, shares, -1), top_k))


def _candidate(tokenizer: Tokenizer, row: list[int], place: int, score: float, token: int) -> Candidate:
    before = tokenizer.frame([tokenizer.mask]).index(tokenizer.mask)
    end = before + len(row) - len(tokenizer.frame([]))
    filled = [*row[before:place], token, *row[place + 1 : end]]
    return Candidate(token, tokenizer.decode([token]), score, tokenizer.decode(filled))
