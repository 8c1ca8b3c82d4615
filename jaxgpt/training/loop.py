"""The pieces that train.py strings together: the state to begin with, the blocks of batches, evaluation, samples."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from jaxgpt import params as P
from jaxgpt.data import EvalBatches, TrainBatches
from jaxgpt.data.prefetch import prefetch
from jaxgpt.generation import generate_tokens
from jaxgpt.sampling import Sampler
from jaxgpt.sharding import place
from jaxgpt.tokenizers import Tokenizer
from jaxgpt.training.checkpoints import Checkpoints, restore_params
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.directory import CHECKPOINTS
from jaxgpt.training.objectives import Objective
from jaxgpt.training.state import TrainState, abstract_state, init_state
from jaxgpt.training.step import Block, block_ends, compile_evaluate


def restore_or_init(
    config: TrainConfig,
    checkpoints: Checkpoints,
    declarations: P.Declarations,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    data: str,
) -> TrainState:
    """The newest whole checkpoint's state; without one, step 0 with fresh parameters or those of init_from.

    data: the identity of the tokens that it must have learnt from.
    """
    restored = checkpoints.restore(abstract_state(declarations, optimizer, mesh), data)
    if restored is not None:
        step, steps = int(restored.step), config.train.steps
        print(f"finished before: all {steps} steps are made" if step == steps else f"resuming from step {step}")
        return restored
    state = init_state(jax.random.key(config.train.seed), declarations, optimizer, mesh)
    if config.init_from is not None:
        source = Path(config.init_from) / CHECKPOINTS
        state = state.replace(params=restore_params(source, P.abstract(declarations, mesh)))
    return state


def training_batches(config: TrainConfig, tokens: np.ndarray) -> TrainBatches:
    """The run's batches by step. Raises ValueError where not one window fits into the tokens."""
    _check_length(config, tokens, "training")
    loop, length = config.train, config.model.context_length
    return TrainBatches(tokens, length, loop.batch_size, loop.seed, config.data.stride, config.data.sampling)


def _check_length(config: TrainConfig, tokens: np.ndarray, part: str) -> None:
    shortest = config.model.context_length + 1
    if len(tokens) < shortest:
        own = part == "validation" and config.data.validation_path is not None
        raise ValueError(
            f"data.{'validation_path' if own else 'path'}: found {len(tokens)} tokens in the {part} part, "
            f"expected at least model.context_length + 1 = {shortest}"
        )


def blocks(config: TrainConfig, batches: TrainBatches, step: int, mesh: Mesh) -> Iterator[tuple[int, int, Block]]:
    """(first step, last step, batches) of each dispatch from `step` on, gathered ahead in a thread.

    Every block holds steps_per_dispatch batches, so that all have one shape; a dispatch may use fewer.
    """
    loop = config.train
    every = [loop.eval_every, loop.save_every, loop.sample_every]
    ends = block_ends(step, loop.steps, loop.steps_per_dispatch, *(n for n in every if n))
    starts = [step, *ends][:-1]

    def make(start: int) -> Block:
        return place(batches.block(start, loop.steps_per_dispatch), mesh, (None, "batch", "time"))

    return zip(starts, ends, prefetch(make, starts), strict=True)


def evaluator(config: TrainConfig, tokens: np.ndarray, objective: Objective, mesh: Mesh) -> Callable[[Any, int], float]:
    """(params, number of batches) -> mean loss in nats a token, over windows spread evenly over the validation part.

    The number is rounded up to a multiple of eval_batches, so that all evaluations run one program.
    Raises ValueError where not one window fits into the tokens.
    """
    _check_length(config, tokens, "validation")
    program = compile_evaluate(config.model, objective)
    size, length, rows = config.train.eval_batches, config.model.context_length, config.train.batch_size

    def evaluate(params, n: int) -> float:
        batches = EvalBatches(tokens, length, rows, -(-n // size) * size)
        nats = weight = 0.0
        for start in range(0, len(batches), size):
            block = place(batches.block(start, size), mesh, (None, "batch", "time"))
            sums = jax.device_get(program(params, block))
            nats, weight = nats + float(sums[0]), weight + float(sums[1])
        return nats / weight

    return evaluate


def sample_start(config: TrainConfig, tokenizer: Tokenizer) -> list[int]:
    """The tokens that samples begin with. Raises ValueError where sample_prompt can't be spelt or is too long."""
    try:
        prompt = tokenizer.encode(config.train.sample_prompt)
    except ValueError as error:
        raise ValueError(f"train.sample_prompt: {error}") from error
    if len(prompt) > (most := config.model.context_length):
        raise ValueError(f"train.sample_prompt: found {len(prompt)} tokens, expected at most context_length={most}")
    return prompt or tokenizer.start


def sample(params, tokenizer: Tokenizer, config: TrainConfig, step: int) -> str:
    """What the model writes after sample_prompt, at temperature 0.8 among the 200 likeliest tokens."""
    loop = config.train
    key = jax.random.fold_in(jax.random.key(loop.seed), step)
    ends = {tokenizer.end_of_text} - {None}
    tokens = generate_tokens(
        params,
        [sample_start(config, tokenizer)],
        config.model,
        max_new_tokens=loop.sample_tokens,
        sampler=Sampler(temperature=0.8, top_k=200),
        end_tokens=ends,
        ids=tokenizer.ids,
        key=key,
    )[0]
    text = tokenizer.decode(token for token in tokens if token not in ends)
    return f"--- a sample after {step} steps ---\n{loop.sample_prompt}{text}\n---"
