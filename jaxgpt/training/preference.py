"""The objective of a model that answers as people prefer: direct preference optimization, from pairs of answers."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key

from jaxgpt import data, gpt, tokenizers
from jaxgpt.checks import require
from jaxgpt.config import ModelConfig
from jaxgpt.data import buckets
from jaxgpt.data.batches import Block
from jaxgpt.data.conversations import check_conversations, encode
from jaxgpt.data.packing import Answers
from jaxgpt.data.preferences import SIDES, Preference, Preferences, last_answer, read_preferences
from jaxgpt.losses import Sums, dpo
from jaxgpt.model import prepare
from jaxgpt.tokenizers import Tokenizer
from jaxgpt.tokenizers.styles import styled
from jaxgpt.training import init_from
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.objectives import Objective, Task


class PreferenceTuning(Task):
    """Pairs of answers, and how likely the model that is begun with finds them. Raises ValueError where none fits."""

    def __init__(
        self, config: TrainConfig, tokenizer: Tokenizer, train: Sequence[Preference], held: Sequence[Preference]
    ):
        loop, settings = config.train, config.data
        self.tokenizer, self._loop, self._buckets = tokenizer, loop, settings.buckets
        self._beta = settings.beta
        self._ends = init_from.end_tokens(config, tokenizer)
        reference = prepare(init_from.parameters(config.init_from, None), config.model.dtype)
        cfg = dataclasses.replace(config.model, dropout=0.0)
        parts = [
            self._encoded(part, cfg, reference, name) for part, name in ((train, "training"), (held, "validation"))
        ]
        self.train = data.BucketBatches(parts[0], loop.batch_size, loop.seed, settings.run_length, settings.buckets)
        self._validation = parts[1]
        print(
            f"data: {len(parts[0].reference):,} training pairs of answers, {len(parts[1].reference):,} to validate on"
        )
        read = [[getattr(parts[0], side).ids for side in SIDES], parts[0].reference.tolist()]
        self.identity = hashlib.sha256(json.dumps(read).encode()).hexdigest()

    def evaluation(self, n: int) -> Iterator[Block]:
        """All the validation pairs, whatever n."""
        return buckets.evaluation(self._validation, self._loop.batch_size, self._buckets)

    def metrics(self, sums: dict[str, Any]) -> dict[str, float]:
        """The loss, the share of pairs whose chosen answer became likelier beside the other, and by how many nats."""
        return {
            "val_loss": float(sums["nats"] / sums["weight"]),
            "val_accuracy": float(sums["correct"] / sums["weight"]),
            "val_margin": float(sums["margin"] / sums["weight"]),
        }

    def show(self, params: Any, cfg: ModelConfig, step: int) -> str:
        """Nothing that its numbers do not tell."""
        return f"--- {step} steps ---"

    def _encoded(self, found: Sequence[Preference], cfg: ModelConfig, reference: dict, part: str) -> Preferences:
        """The pairs as ids, those of which an answer is too long left out, which is told; and the reference's view."""
        sides: dict[str, list] = {side: [] for side in SIDES}
        longer = 0
        for one in found:
            try:
                pair = [encode(self.tokenizer, getattr(one, side), self._ends) for side in SIDES]
            except ValueError as error:
                raise ValueError(f"{one.place}: {error}") from error
            if max(len(ids) for ids, _ in pair) > cfg.context_length + 1:
                longer += 1
                continue
            for side, (ids, learnt) in zip(SIDES, pair, strict=True):
                sides[side].append((ids, last_answer(learnt)))
        if longer:
            print(f"data: {longer:,} {part} pairs of more than {cfg.context_length} tokens left out")
        n = len(sides["chosen"])
        require(n > 0, f"data.path: {part} pairs that fit", 0, f"one or more of {cfg.context_length} tokens")
        answers = [
            Answers([ids for ids, _ in rows], [learnt for _, learnt in rows], [[i] for i in range(n)])
            for rows in sides.values()
        ]
        unknown = Preferences(*answers, np.zeros(n, np.float32), self._beta)
        ratios = [
            np.asarray(_ratio(reference, {name: x[k] for name, x in block.items()}, cfg))[block["weights"][k] > 0]
            for block in buckets.evaluation(unknown, self._loop.batch_size, self._buckets)
            for k in range(len(block["weights"]))
        ]
        known = np.zeros(n, np.float32)
        known[buckets.by_length(unknown)] = np.concatenate(ratios)
        return dataclasses.replace(unknown, reference=known)


def logprobs(
    params: dict, rows: dict[str, Array], cfg: ModelConfig, key: Key[Array, ""] | None = None
) -> Float[Array, "batch"]:
    """log p of what is learnt of each row of `Answers.gather`."""
    logits = gpt.apply(params, rows["inputs"], cfg, segments=rows["segments"], key=key)
    nats = optax.losses.softmax_cross_entropy_with_integer_labels(logits, rows["targets"])
    return -(nats * rows["weights"]).sum(-1)


def _sides(batch: dict[str, Array]) -> list[dict[str, Array]]:
    return [{n.removeprefix(f"{side}_"): x for n, x in batch.items() if n.startswith(side)} for side in SIDES]


@functools.partial(jax.jit, static_argnames="cfg")
def _ratio(params: dict, batch: dict[str, Array], cfg: ModelConfig) -> Float[Array, "batch"]:
    chosen, rejected = (logprobs(params, rows, cfg) for rows in _sides(batch))
    return chosen - rejected


def loss(
    params: dict, batch: dict[str, Array], cfg: ModelConfig, *, key: Key[Array, ""] | None = None
) -> tuple[Float[Array, ""], Sums]:
    """`losses.dpo` of a batch of `Preferences`, its mean; "margin" sums how much likelier the chosen became.

    key: drops the same activations of both answers.
    """
    chosen, rejected = (logprobs(params, rows, cfg, key) for rows in _sides(batch))
    nats, weights = dpo(chosen, rejected, batch["reference"], batch["beta"]), batch["weights"]
    margin = chosen - rejected - batch["reference"]
    sums = {name: (x * weights).sum() for name, x in (("nats", nats), ("correct", margin > 0), ("margin", margin))}
    total = weights.sum()
    return sums["nats"] / jnp.maximum(total, 1e-9), sums | {"weight": total}


def _open(config: TrainConfig, cache: Path) -> PreferenceTuning:
    require(config.init_from is not None, "init_from", None, "the model whose answers were judged, or its like")
    check_conversations(config.data)
    train, held = read_preferences(config.data, config.train.seed)
    tokenizer = styled(tokenizers.create(config.data.tokenizer, lambda: (), config.data.vocab_size), config.data.style)
    return PreferenceTuning(config, tokenizer, train, held)


def _look(config: data.DataConfig) -> None:
    tokenizers.check(config.tokenizer, "data.tokenizer")
    check_conversations(config)


OBJECTIVE = Objective(("decoder",), gpt.declare, loss, _open, _look)
