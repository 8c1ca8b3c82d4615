"""The objective of an assistant: the answers of conversations; and what it answers to some that it never saw."""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxgpt import data, gpt, tokenizers
from jaxgpt.checks import require
from jaxgpt.config import ModelConfig
from jaxgpt.data import buckets, packing
from jaxgpt.data.batches import Block
from jaxgpt.data.conversations import (
    Conversation,
    Conversations,
    check_conversations,
    encode,
    read_conversations,
    write_records,
)
from jaxgpt.data.packing import Answers
from jaxgpt.generation import generate_tokens
from jaxgpt.tokenizers import Tokenizer
from jaxgpt.tokenizers.styles import styled
from jaxgpt.training import init_from
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.metrics import flops_per_token
from jaxgpt.training.objectives import Objective, Task

SHOWN = 10  # conversations in a sample


class Instruction(Task):
    """Conversations. Raises ValueError where none of a part has an answer that the model can read."""

    shows_first = True

    def __init__(self, config: TrainConfig, tokenizer: Tokenizer, found: Conversations):
        loop, settings = config.train, config.data
        self.tokenizer = tokenizer
        self._ends = init_from.end_tokens(config, tokenizer)
        self._loop, self._length, self._settings = loop, config.model.context_length, settings
        train, self._validation = self._encoded(found.train, "training"), self._encoded(found.validation, "validation")
        self._buckets = packing.shapes(train, settings)
        self.train = data.BucketBatches(train, loop.batch_size, loop.seed, settings.run_length, self._buckets)
        rows = f", in {len(train.packs):,} rows" if settings.pack else ""
        print(f"data: {len(train.ids):,} training conversations{rows}; {self.train.padding():.0%} of them is padding")
        print(f"data: {len(self._validation.ids):,} validation conversations, {len(found.test):,} kept for a test")
        held = found.test or found.validation
        self._shown = [held[i] for i in np.unique(np.linspace(0, len(held) - 1, SHOWN).astype(int))]
        read = [tokenizer.special_tokens, train.ids, train.learnt, train.packs]
        self.identity = hashlib.sha256(json.dumps(read).encode()).hexdigest()

    def evaluation(self, n: int) -> Iterator[Block]:
        """All the validation conversations, whatever n."""
        return buckets.evaluation(self._validation, self._loop.batch_size, self._buckets)

    def metrics(self, sums: dict[str, Any]) -> dict[str, float]:
        """The loss in nats a token that is learnt, its perplexity, and the share of them guessed right."""
        loss = float(sums["nats"] / sums["weight"])
        return {
            "val_loss": loss,
            "val_perplexity": math.exp(min(loss, 700.0)),  # beyond, exp overflows
            "val_accuracy": float(sums["correct"] / sums["weight"]),
        }

    def show(self, params: Any, cfg: ModelConfig, step: int) -> str:
        """What the model answers, by its likeliest tokens, to a few held-back questions."""
        asked = [self._question(one) for one in self._shown]
        prompts = [self.tokenizer.encode_chat(messages) for messages, _ in asked]
        room = cfg.context_length - max(map(len, prompts))
        new = min(self._loop.sample_tokens, room)
        found = generate_tokens(
            params, prompts, cfg, max_new_tokens=new, end_tokens=self._ends, ids=self.tokenizer.ids
        ) if new > 0 else [[]] * len(prompts)  # fmt: skip
        lines = [f"--- answers after {step} steps ---"]
        for (messages, answer), tokens in zip(asked, found, strict=True):
            text = self.tokenizer.decode(token for token in tokens if token not in self._ends)
            lines += [f"asked   {messages[-1]['content']}", f"answer  {answer}", f"model   {text}", ""]
        return "\n".join([*lines[:-1], "---"])

    def flops_per_token(self, cfg: ModelConfig) -> int:
        return flops_per_token(cfg)

    def _question(self, one: Conversation) -> tuple[list[dict[str, str]], str]:
        """The conversation up to its first answer, and that."""
        first = next(i for i, message in enumerate(one.messages) if message["role"] == "assistant")
        return one.messages[:first], one.messages[first]["content"]

    def _encoded(self, found: Sequence[Conversation], part: str) -> Answers:
        """The conversations as ids; those that are too long as data.too_long says, which is told."""
        most = self._length + 1  # the last token is a target only
        ids, learnt, longer, lost = [], [], 0, 0
        for one in found:
            try:
                tokens, answers = encode(self.tokenizer, one.messages, self._ends)
            except ValueError as error:
                raise ValueError(f"{one.place}: {error}") from error
            answers = [self._settings.learn == "all" or answer for answer in answers]
            if len(tokens) > most:
                longer += 1
                tokens, answers = tokens[:most], answers[:most]
                if self._settings.too_long == "drop" or not any(answers[1:]):
                    lost += 1
                    continue
            ids.append(tokens)
            learnt.append(answers)
        if longer:
            done = f"{longer - lost:,} cut, {lost:,} left out"
            print(f"data: {longer:,} {part} conversations of more than {self._length} tokens: {done}")
        require(len(ids) > 0, f"data.path: {part} conversations that fit", 0, f"one or more of {self._length} tokens")
        lengths = [len(tokens) - 1 for tokens in ids]
        return Answers(ids, learnt, packing.rows(lengths, self._settings, self._length))


def _open(config: TrainConfig, cache: Path) -> Instruction:
    check_conversations(config.data)
    found = read_conversations(config.data, config.train.seed)

    def texts() -> Iterator[str]:
        return (message["content"] for one in found.train for message in one.messages)

    name = init_from.tokenizer_name(config)
    tokenizer = styled(tokenizers.create(name, texts, config.data.vocab_size), config.data.style)
    if found.test:
        write_records(found.test, cache / "test.jsonl")
    return Instruction(config, tokenizer, found)


def _look(config: data.DataConfig) -> None:
    tokenizers.check(config.tokenizer, "data.tokenizer")
    check_conversations(config)


OBJECTIVE = Objective(("decoder",), gpt.declare, gpt.loss, _open, _look)
