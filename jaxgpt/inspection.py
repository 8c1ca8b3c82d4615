"""What a model looks at: the attention weights of every layer and head."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxgpt import params as P
from jaxgpt.checks import require
from jaxgpt.config import ModelConfig
from jaxgpt.decoder import decoder
from jaxgpt.embeddings import check_tokens
from jaxgpt.encoder import encoder
from jaxgpt.model import Model
from jaxgpt.rows import mask_name, pad
from jaxgpt.seq2seq import remember
from jaxgpt.tokenizers import Tokenizer
from jaxgpt.tokenizers.streaming import UNFINISHED
from jaxgpt.translation import source_rows, target_choices, translate

_MOST_PARTS = 4  # tokens of a character, at most: it has four bytes


class AttentionWeights(NamedTuple):
    """The share of each key in what each query reads. Every row sums to 1, or to 0 where it sees nothing: padding.

    own: a stack's own tokens; of an encoder-decoder, the target's. encoder, cross: the source's own, and what the
    target's queries give it; None but for an encoder-decoder.
    """

    own: Float[Array, "layers batch heads time time"]
    encoder: Float[Array, "encoder_layers batch heads source source"] | None = None
    cross: Float[Array, "layers batch heads time source"] | None = None


def attention_weights(
    params: dict,
    tokens: Int[Array, "batch source"],
    cfg: ModelConfig,
    *,
    mask: Bool[Array, "batch source"] | None = None,
    segments: Int[Array, "batch source"] | None = None,
    target: Int[Array, "batch time"] | None = None,
    target_mask: Bool[Array, "batch time"] | None = None,
) -> AttentionWeights:
    """float32 attention weights of any architecture's forward pass.

    tokens: of an encoder-decoder, the source's. mask: True at a real token. segments: as of `bert.encode`, for an
    encoder only. target, target_mask: for an encoder-decoder only, the target from its start token on.
    Raises ValueError for an argument that the architecture does not read, or lacks; as `bert.encode` does for tokens.
    Source: Vaswani et al. 2017, section 3.2.1, equation 1: the softmax.
    """
    two = cfg.architecture == "encoder-decoder"
    for name, given, read in (
        ("target", target, two),
        ("target_mask", target_mask, two),
        ("segments", segments, cfg.architecture == "encoder"),
    ):
        if given is not None and not read:
            raise ValueError(f"{name}: found an array, expected None for the architecture {cfg.architecture}")
    if two and target is None:
        raise ValueError("target: found None, expected the target's tokens, for an encoder-decoder")
    check_tokens("tokens", tokens, cfg)
    if not two:
        params = P.cast(params, cfg.dtype)
        if cfg.architecture == "decoder":
            out = decoder(params, tokens, cfg, mask=mask, weights=True)
        else:
            out = encoder(params, tokens, cfg, mask=mask, segments=segments, weights=True)
        return AttentionWeights(out.weights.own)

    check_tokens("target", target, cfg)
    reads, writes = (
        P.cast({"embedding": params["embedding"]} | params[side], cfg.dtype) for side in ("encoder", "decoder")
    )
    source = encoder(reads, tokens, cfg, mask=mask, weights=True)
    memory = remember(params, source.x, cfg, source_mask=mask)
    out = decoder(writes, target, cfg, mask=target_mask, memory=memory, weights=True)
    return AttentionWeights(out.weights.own, source.weights.own, out.weights.cross)


@dataclass(frozen=True, eq=False)
class AttentionMap:
    """Attention weights of one text or two, and the texts of the tokens along both axes."""

    weights: Float[np.ndarray, "layers heads queries keys"]
    queries: list[str]
    keys: list[str]


def attention_maps(model: Model, text: str, target: str | None = None) -> dict[str, AttentionMap]:
    """What a model looks at in a text: {"self": map}, or for an encoder-decoder "encoder", "decoder" and "cross".

    The text is framed as the tokenizer says ([CLS] text [SEP]); an encoder's mask token is recognised.
    target: for an encoder-decoder (None: its own greedy translation); the target's queries are the tokens it has read,
    from the start token on: each chooses the next.
    Raises ValueError for a text longer than context_length, or empty, and for a target that no decoder would read.
    """
    cfg, tokenizer = model.config, model.tokenizer
    if cfg.architecture != "encoder-decoder":
        require(target is None, "target", target, "None, as only an encoder-decoder reads one")
        blanks = {mask_name(tokenizer)} if cfg.architecture == "encoder" and tokenizer.mask is not None else set()
        row, n_added = tokenizer.frame(tokenizer.encode(text, allowed_special=blanks)), len(tokenizer.frame([]))
        added = f", {n_added} that begin and end it among them" if n_added else ""
        tokens, mask = _padded("text", row, added, cfg)
        own = _weights(model.params, tokens, cfg, mask=mask).own
        return {"self": _map(tokenizer, own, row, row)}

    start = target_choices(model)["start"]
    (source,) = source_rows(model, [text])
    tokens, mask = _padded("text", source, ", the end's among them", cfg)
    if target is None:
        # At most as long as the context, with the start token before it.
        wanted = [start, *tokenizer.encode(translate(model, text, beam=1))][: cfg.context_length]
    else:
        wanted = [start, *tokenizer.encode(target)]
    targets, target_mask = _padded("target", wanted, ", the start's among them", cfg)
    found = _weights(model.params, tokens, cfg, mask=mask, target=targets, target_mask=target_mask)
    return {
        "encoder": _map(tokenizer, found.encoder, source, source),
        "decoder": _map(tokenizer, found.own, wanted, wanted),
        "cross": _map(tokenizer, found.cross, wanted, source),
    }


_weights = jax.jit(attention_weights, static_argnames="cfg")


def _padded(name: str, row: list[int], added: str, cfg: ModelConfig) -> tuple[np.ndarray, np.ndarray]:
    """The row as a batch of its own. added: which of its tokens are not the text's, for the error's words."""
    require(len(row) > 0, name, "no tokens", "at least one")
    if len(row) > cfg.context_length:
        raise ValueError(f"{name}: found {len(row)} tokens, expected at most {cfg.context_length}{added}")
    return pad([row], cfg.context_length)


def _map(tokenizer: Tokenizer, weights: Array, queries: list[int], keys: list[int]) -> AttentionMap:
    """The only row of a batch, less its padding."""
    shown = np.asarray(weights)[:, 0, :, : len(queries), : len(keys)]
    return AttentionMap(shown, token_texts(tokenizer, queries), token_texts(tokenizer, keys))


def token_texts(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    """The text of each token alone; of the n tokens that make up one character between them, "ä(1/n)", "ä(2/n)", ..."""
    texts: list[str] = []
    while len(texts) < len(ids):
        rest = ids[len(texts) :]
        joined = [tokenizer.decode(rest[:n]) for n in range(1, min(_MOST_PARTS, len(rest)) + 1)]
        # A lone token of wrong bytes stays what it decodes to.
        n = next((n for n, text in enumerate(joined, 1) if UNFINISHED not in text), 1)
        texts += joined[:1] if n == 1 else [f"{joined[n - 1]}({part}/{n})" for part in range(1, n + 1)]
    return texts
