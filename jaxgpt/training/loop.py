"""The pieces that train.py strings together: the state to begin with, the blocks of batches, evaluation."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from jaxgpt import params as P
from jaxgpt.data.batches import Batches
from jaxgpt.data.prefetch import prefetch
from jaxgpt.sharding import place
from jaxgpt.training import init_from
from jaxgpt.training.checkpoints import Checkpoints
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.objectives import Objective, Task
from jaxgpt.training.state import TrainState, abstract_state, init_state
from jaxgpt.training.step import Block, block_ends, compile_evaluate
from jaxgpt.training.tuning import ALL, Tuning


def restore_or_init(
    config: TrainConfig,
    checkpoints: Checkpoints,
    declarations: P.Declarations,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    data: str,
    tuning: Tuning = ALL,
) -> TrainState:
    """The newest whole checkpoint's state; without one, step 0: fresh parameters, or init_from's as far as they fit.

    data: the identity of what it must have learnt from.
    """
    # A run that trains all parameters goes on without those that it began with.
    frozen = {} if tuning is ALL else init_from.frozen(config.init_from, declarations, tuning, mesh)
    restored = checkpoints.restore(abstract_state(declarations, optimizer, mesh, tuning), data, frozen)
    if restored is not None:
        step, steps = int(restored.step), config.train.steps
        print(f"finished before: all {steps} steps are made" if step == steps else f"resuming from step {step}")
        return restored
    key = jax.random.key(config.train.seed)
    begun = P.init(key, declarations, mesh)
    if config.init_from is not None:
        source = init_from.parameters(config.init_from, mesh)
        if config.train.new_head:
            source = {name: branch for name, branch in source.items() if name != "classifier"}
        begun = init_from.overlay(begun, source)
    return init_state(key, declarations, optimizer, mesh, tuning, begun)


def blocks(config: TrainConfig, batches: Batches, step: int, mesh: Mesh) -> Iterator[tuple[int, int, Block]]:
    """(first step, last step, batches) of each dispatch from `step` on, gathered ahead in a thread.

    Every block holds steps_per_dispatch batches, or as many as a run of one shape has, so that all of a shape run one
    program; a dispatch may use fewer.
    """
    loop, run = config.train, batches.run_length
    size = loop.steps_per_dispatch if run is None else min(loop.steps_per_dispatch, run)
    every = [loop.eval_every, loop.save_every, loop.sample_every, run]
    ends = block_ends(step, loop.steps, size, *(n for n in every if n))
    starts = [step, *ends][:-1]

    def make(start: int) -> Block:
        left = size if run is None else min(size, run - start % run)
        block = batches.block(start, left)
        if left < size:  # the last one again in place of the next run's, which no dispatch uses
            block = {name: rows[np.minimum(np.arange(size), left - 1)] for name, rows in block.items()}
        return place(block, mesh, (None, "batch", "time"))

    return zip(starts, ends, prefetch(make, starts), strict=True)


def evaluator(config: TrainConfig, objective: Objective, task: Task, mesh: Mesh) -> Callable[..., dict[str, float]]:
    """The function (params, last=False) -> what the task tells of them, over eval_batches, or final_eval_batches."""
    program = compile_evaluate(config.model, objective)

    def evaluate(params: Any, last: bool = False) -> dict[str, float]:
        sums: dict[str, Any] = {}
        for block in task.evaluation(config.train.final_eval_batches if last else config.train.eval_batches):
            found = jax.device_get(program(params, place(block, mesh, (None, "batch", "time"))))
            sums = {name: sums.get(name, 0.0) + np.asarray(x, np.float64) for name, x in found.items()}
        return task.metrics(sums) | task.score(params, config.model, last=last)

    return evaluate
