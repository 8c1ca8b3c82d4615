"""The objective of a decoder: every next token of windows of text; and samples of what it writes."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from jaxgpt import data, gpt
from jaxgpt.config import ModelConfig
from jaxgpt.data.batches import Block
from jaxgpt.generation import generate_tokens
from jaxgpt.sampling import Sampler
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.metrics import flops_per_token
from jaxgpt.training.objectives import Objective, Task, check_length


class CausalLM(Task):
    """Windows of a text. Raises ValueError where not one fits into a part of it."""

    def __init__(self, config: TrainConfig, dataset: data.Dataset):
        loop, length = config.train, config.model.context_length
        check_length(config, dataset.train, "training", 1)
        check_length(config, dataset.validation, "validation", 1)
        self.tokenizer, self.identity = dataset.tokenizer, dataset.identity
        self.train = data.TrainBatches(
            dataset.train, length, loop.batch_size, loop.seed, config.data.stride, config.data.sampling
        )
        self._loop, self._length, self._validation = loop, length, dataset.validation
        self._bytes_per_token = dataset.validation_bytes / len(dataset.validation)

    def evaluation(self, n: int) -> Iterator[Block]:
        """Windows spread evenly over the validation part; n rounded up to blocks of eval_batches, all of one shape."""
        size = self._loop.eval_batches
        batches = data.EvalBatches(self._validation, self._length, self._loop.batch_size, -(-n // size) * size)
        return (batches.block(start, size) for start in range(0, len(batches), size))

    def metrics(self, sums: dict[str, float]) -> dict[str, float]:
        """The loss in nats a token, its perplexity, and bits a byte, which compare across tokenizers."""
        loss = sums["nats"] / sums["weight"]
        perplexity = math.exp(min(loss, 700.0))  # beyond, exp overflows
        bits = loss / math.log(2) / self._bytes_per_token
        return {"val_loss": loss, "val_perplexity": perplexity, "val_bits_per_byte": bits}

    def show(self, params: Any, cfg: ModelConfig, step: int) -> str:
        """What the model writes after sample_prompt, at temperature 0.8 among the 200 likeliest tokens."""
        loop, tokenizer = self._loop, self.tokenizer
        ends = {tokenizer.end_of_text} - {None}
        tokens = generate_tokens(
            params,
            [tokenizer.frame(tokenizer.encode(loop.sample_prompt)) or tokenizer.start],
            cfg,
            max_new_tokens=loop.sample_tokens,
            sampler=Sampler(temperature=0.8, top_k=200),
            end_tokens=ends,
            ids=tokenizer.ids,
            key=jax.random.fold_in(jax.random.key(loop.seed), step),
        )[0]
        text = tokenizer.decode(token for token in tokens if token not in ends)
        return f"--- a sample after {step} steps ---\n{loop.sample_prompt}{text}\n---"

    def check(self, config: TrainConfig) -> None:
        """Raise ValueError where sample_prompt can't be spelt or is too long."""
        try:
            prompt = self.tokenizer.frame(self.tokenizer.encode(config.train.sample_prompt))
        except ValueError as error:
            raise ValueError(f"train.sample_prompt: {error}") from error
        if len(prompt) > (most := config.model.context_length):
            raise ValueError(f"train.sample_prompt: found {len(prompt)} tokens, expected at most context_length={most}")

    def flops_per_token(self, cfg: ModelConfig) -> int:
        return flops_per_token(cfg)


def _open(config: TrainConfig, cache: Path) -> CausalLM:
    return CausalLM(config, data.prepare(config.data, cache))


OBJECTIVE = Objective(("decoder",), gpt.declare, gpt.loss, _open, data.check)
