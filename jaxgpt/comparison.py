"""A checkpoint's numbers here beside those of transformers: what `python -m jaxgpt compare` prints."""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from jaxgpt import bert, gpt, seq2seq
from jaxgpt.checks import require
from jaxgpt.config import ModelConfig
from jaxgpt.generation import generate_tokens
from jaxgpt.loading import load
from jaxgpt.model import Model
from jaxgpt.pretrained.hub import find_folder
from jaxgpt.translation import translate_tokens

TEXT = "Once upon a time there was a king who had three daughters, and the youngest of them was the cleverest."
ROUNDS = 3


@dataclass(frozen=True)
class Comparison:
    """What the two make of one text."""

    family: str
    """The checkpoint's model_type."""
    tokens: int
    """Tokens of the text."""
    largest: float
    """The largest absolute logit of transformers (of a bare model: number of its last states)."""
    difference: float
    """The largest absolute difference from them."""
    agreed: int | None
    """Greedy tokens that are the same, before the first that is not; None for an encoder."""
    made: int
    """Greedy tokens that transformers makes; of an encoder, the tokens of the text."""
    seconds: tuple[float, float]
    """For those tokens, here and there: the median of a few rounds in turn, after a first one that compiles."""

    def lines(self) -> str:
        """What there is to say, for a person."""
        kind = "logit" if self.agreed is not None else "output"
        rows = [
            ("family", self.family),
            (f"largest {kind} difference", f"{self.difference:.1e} (of {self.largest:.1f}, {self.tokens} tokens)"),
        ]
        if self.agreed is not None:
            rows.append(("greedy tokens that agree", f"{self.agreed} of {self.made}"))
        ours, theirs = (self.made / seconds for seconds in self.seconds)
        rows.append(("tokens/s, batch 1", f"jaxgpt {ours:,.0f}, transformers {theirs:,.0f}: {ours / theirs:.2f}x"))
        return "\n".join(f"{name:26} {value}" for name, value in rows)


def compare(path: str | Path, text: str = TEXT, *, new_tokens: int = 64, dtype: str = "float32") -> Comparison:
    """A checkpoint's folder, or a run directory that is one, run here and in transformers on the same text.

    new_tokens: greedy tokens to make, at most. Needs the `parity` extra.
    Raises ImportError without it, ValueError for a text that does not fit, and the errors of `load`.
    """
    try:
        import torch
        import transformers
    except ImportError as error:
        raise ImportError("to compare with transformers: pip install 'jaxgpt[parity]'") from error

    folder = find_folder(path)
    expected = "a folder with a config.json (of a run that has none: python -m jaxgpt export)"
    require((folder / "config.json").is_file(), "model", str(path), expected)
    config = transformers.AutoConfig.from_pretrained(folder)
    architecture = getattr(transformers, config.architectures[0])
    peer = architecture.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    model = load(folder, dtype=dtype)
    ids = model.tokenizer.frame(model.tokenizer.encode(text)) or model.tokenizer.start
    most = model.config.context_length
    require(len(ids) < most, "text", len(ids), f"fewer than context_length={most} tokens")

    inputs = _inputs(model, ids)
    with torch.no_grad():
        there = peer(**{name: torch.tensor(rows) for name, rows in inputs.items()})
    theirs = (there.logits if "logits" in there else there.last_hidden_state).float().numpy()
    ours = np.asarray(_forward(model.params, tuple(inputs.values()), model.config), np.float32)

    encoder = model.config.architecture == "encoder"
    if encoder:
        runs = _encoder_runs(model, peer, inputs)
        agreed, made = None, len(ids)
    else:
        runs = _greedy_runs(model, peer, ids, min(new_tokens, most - len(ids)))
        first, second = (run() for run in runs)
        same = [a == b for a, b in zip(first, second, strict=False)]
        agreed, made = [*same, False].index(False), len(second)
    return Comparison(
        family=config.model_type,
        tokens=len(ids),
        largest=float(np.abs(theirs).max()),
        difference=float(np.abs(ours.reshape(theirs.shape) - theirs).max()),
        agreed=agreed,
        made=made,
        seconds=_medians(runs),
    )


def _inputs(model: Model, ids: list[int]) -> dict[str, Int[np.ndarray, "1 time"]]:
    """By transformers' names. A target of an encoder-decoder: its start token and the source's tokens."""
    inputs = {"input_ids": np.array([ids])}
    if model.config.architecture == "encoder-decoder":
        inputs["decoder_input_ids"] = np.array([[model.generation.start_token, *ids[:-1]]])
    return inputs


@functools.partial(jax.jit, static_argnames="cfg")
def _forward(params: dict, tokens: Sequence[Int[Array, "1 time"]], cfg: ModelConfig) -> Float[Array, "1 *shape"]:
    """What transformers' model returns first: logits, or a bare model's states."""
    match cfg.architecture:
        case "decoder":
            return gpt.classify(params, *tokens, cfg) if cfg.head == "sequence" else gpt.apply(params, *tokens, cfg)
        case "encoder-decoder":
            return seq2seq.apply(params, *tokens, cfg)
    if cfg.head in ("sequence", "token"):
        return bert.classify(params, *tokens, cfg)
    return bert.encode(params, *tokens, cfg) if cfg.head in ("pooled", "none") else bert.apply(params, *tokens, cfg)


def _encoder_runs(model: Model, peer: Any, inputs: dict) -> tuple[Callable, Callable]:
    import torch

    tensors = {name: torch.tensor(rows) for name, rows in inputs.items()}

    def there():
        with torch.no_grad():
            return peer(**tensors)

    return lambda: jax.block_until_ready(
        _forward(model.inference_params, tuple(inputs.values()), model.inference_config)
    ), there


def _greedy_runs(model: Model, peer: Any, ids: list[int], new: int) -> tuple[Callable, Callable]:
    """Greedy search without whatever else the checkpoint's own settings ask for."""
    import torch
    import transformers

    cfg, ends, start = model.inference_config, model.generation.end_tokens, model.generation.start_token
    tokens = torch.tensor([ids])
    plain = transformers.GenerationConfig(
        max_new_tokens=new, eos_token_id=list(ends) or None, decoder_start_token_id=start, pad_token_id=0
    )

    def here():
        if cfg.architecture == "decoder":
            return generate_tokens(model.inference_params, [ids], cfg, max_new_tokens=new, end_tokens=ends)[0]
        options = {"start": start, "end": ends[0], "beam": 1, "max_new_tokens": new}
        return translate_tokens(model.inference_params, [ids], cfg, **options)[0]

    def there():
        peer.generation_config = plain
        with torch.no_grad():
            found = peer.generate(tokens, attention_mask=torch.ones_like(tokens))[0].tolist()
        return found[len(ids) if cfg.architecture == "decoder" else 1 :]

    return here, there


def _medians(runs: tuple[Callable, Callable]) -> tuple[float, float]:
    times = []
    for _ in range(1 + ROUNDS):
        row = []
        for run in runs:
            begun = time.perf_counter()
            run()
            row.append(time.perf_counter() - begun)
        times.append(row)
    ours, theirs = np.median(times[1:], axis=0)
    return float(ours), float(theirs)
