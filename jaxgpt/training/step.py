"""One update and one evaluation as pure functions, and the programs that make many of them a dispatch."""

import functools
import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PyTree

from jaxgpt.config import ModelConfig
from jaxgpt.training.objectives import Objective
from jaxgpt.training.state import TrainState, state_shardings
from jaxgpt.training.tuning import ALL, Tuning

Batch = dict[str, Array]  # arrays [batch, ...]
Block = dict[str, Array]  # arrays [steps, batch, ...]


def train_step(
    state: TrainState,
    batch: Batch,
    cfg: ModelConfig,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    accumulation: int = 1,
    tuning: Tuning = ALL,
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """One update: (the next state, {"loss", "grad_norm"} of this one). A pure function: jit it, or run it as it is.

    accumulation: parts of the batch computed one after the other; the gradient is the whole batch's, each part
    counted by the weight of its targets.
    """
    key = jax.random.fold_in(state.key, state.step) if max(cfg.dropout, tuning.dropout) > 0 else None

    def loss(params, rows, key):
        own = None if key is None or tuning.dropout == 0 else jax.random.fold_in(key, 0)
        model_key = key if cfg.dropout > 0 else None
        return objective.loss(tuning.whole(params, state.frozen, own), rows, cfg, key=model_key)

    value_and_grad = jax.value_and_grad(loss, has_aux=True)

    def part(i, rows):
        part_key = None if key is None else jax.random.fold_in(key, i)
        (loss, sums), grads = value_and_grad(state.params, rows, part_key)
        return jax.tree.map(lambda x: x * sums["weight"], (loss, grads)), sums["weight"]

    if accumulation == 1:
        (loss, _), grads = value_and_grad(state.params, batch, key)
    else:
        parts = jax.tree.map(lambda x: x.reshape(accumulation, -1, *x.shape[1:]), batch)
        zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(part, 0, _first(parts)))
        total, _ = jax.lax.scan(
            lambda total, x: (jax.tree.map(jnp.add, total, part(*x)), None), zero, (jnp.arange(accumulation), parts)
        )
        (loss, grads), weight = total
        loss, grads = jax.tree.map(lambda x: x / jnp.maximum(weight, 1e-9), (loss, grads))

    updates, moments = optimizer.update(grads, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {"loss": loss, "grad_norm": optax.tree.norm(grads)}
    return state.replace(step=state.step + 1, params=params, optimizer=moments), metrics


def _first(tree: PyTree[Array]) -> PyTree[Array]:
    return jax.tree.map(lambda x: x[0], tree)


def compile_train(
    cfg: ModelConfig,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    accumulation: int = 1,
    tuning: Tuning = ALL,
) -> Callable[[TrainState, Block, Int[Array, ""]], tuple[TrainState, dict[str, Float[Array, " steps"]]]]:
    """The program (state, block, n) -> (state, metrics): the updates of the block's first n batches. Donates the state.

    Several updates a dispatch reuse one set of buffers (a third less time a step on a CPU) and hide the host. n is no
    constant of the program, so that a shorter last block neither compiles again nor rounds differently. Blocks of
    another shape compile once more.
    """
    placed = state_shardings(objective.declare(cfg), optimizer, mesh, tuning)
    options = {"objective": objective, "optimizer": optimizer, "accumulation": accumulation, "tuning": tuning}
    step = functools.partial(train_step, cfg=cfg, **options)

    def run(state, block, n):
        shapes, steps = jax.eval_shape(step, state, _first(block))[1], len(jax.tree.leaves(block)[0])
        metrics = jax.tree.map(lambda s: jnp.zeros((steps,), s.dtype), shapes)

        def body(i, carry):
            state, metrics = carry
            state, new = step(state, jax.tree.map(lambda x: x[i], block))
            return state, jax.tree.map(lambda rows, x: rows.at[i].set(x), metrics, new)

        return jax.lax.fori_loop(0, n, body, (state, metrics))

    chosen = _compiler_options(mesh.devices.flat[0].platform)
    return jax.jit(run, donate_argnums=0, out_shardings=(placed, None), compiler_options=chosen)


def compile_evaluate(
    cfg: ModelConfig, objective: Objective
) -> Callable[[PyTree[Array], Block], dict[str, Float[Array, ""]]]:
    """The program (params, block) -> the sums of the objective's loss, added up over the block's batches."""

    def run(params, block):
        each = jax.lax.map(lambda batch: objective.loss(params, batch, cfg)[1], block)
        return jax.tree.map(lambda x: x.sum(0), each)

    return jax.jit(run, compiler_options=_compiler_options(jax.default_backend()))


def _compiler_options(platform: str) -> dict[str, int] | None:
    """On a CPU, LLVM's level 2: level 3 takes as long again, for no faster a step. The environment's goes first."""
    name = "xla_backend_optimization_level"
    return {name: 2} if platform == "cpu" and name not in os.environ.get("XLA_FLAGS", "") else None


def block_ends(start: int, steps: int, most: int, *every: int) -> list[int]:
    """Where the dispatches from step `start` on end: at most `most` steps each, and at multiples of each of `every`."""
    ends, step = [], start
    while step < steps:
        step = min([step + most, steps, *((step // n + 1) * n for n in every)])
        ends.append(step)
    return ends
