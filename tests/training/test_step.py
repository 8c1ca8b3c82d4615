"""One update is a pure function; accumulating, blocks of steps and meshes compute the same one faster."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as Spec
from tiers import few
from tiny import TINY, apply, draw, draw_tokens, loss_and_grads

from jaxgpt import gpt
from jaxgpt.sharding import MeshConfig, make_mesh, place
from jaxgpt.training.causal_lm import OBJECTIVE as causal_lm
from jaxgpt.training.state import TrainState, init_state, state_shardings
from jaxgpt.training.step import _compiler_options, block_ends, compile_evaluate, compile_train, train_step

OPTIMIZER = optax.adamw(3e-3)
ONE_LAYER = replace(TINY, n_layers=1)
EVEN = replace(TINY, vocab_size=32, context_length=16, d_model=16, n_heads=4, n_kv_heads=2, d_ff=32, n_layers=1)


def fresh(cfg, optimizer=OPTIMIZER, seed=0):
    params = draw(gpt.declare(cfg), seed)
    return TrainState(jnp.array(0), params, optimizer.init(params), jax.random.key(seed))


def draw_batch(cfg, rows, time, seed=1, weights=None):
    tokens = draw_tokens(cfg, rows, time + 1, seed)
    batch = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:]}
    return batch if weights is None else batch | {"weights": jnp.array(weights, jnp.float32)}


def draw_block(cfg, steps, rows, time):
    batches = [draw_batch(cfg, rows, time, seed) for seed in range(steps)]
    return jax.tree.map(lambda *rows: jnp.stack(rows), *batches)


@functools.partial(jax.jit, static_argnames=("cfg", "optimizer", "accumulation"))
def one_step(state, batch, cfg, optimizer=OPTIMIZER, accumulation=1):
    return train_step(state, batch, cfg, causal_lm, optimizer, accumulation)


def assert_close(found, wanted, atol):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol, rtol=0), found, wanted)


def assert_same(found, wanted):
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def weights_of(kind, rows, time):
    if kind == "equal":
        return None
    weights = np.random.default_rng(5).uniform(0, 1, (rows, time)) ** 3
    weights[rows // 2 :] *= 0.05  # the last parts count for little: their plain mean would count them in full
    if kind == "a part of weight 0":
        weights[: rows // 6] = 0
    return weights


@pytest.mark.parametrize(("parts", "kind"), few([(3, "unequal"), (2, "equal"), (6, "a part of weight 0")]))
def test_accumulation_is_the_whole_batch(parts, kind):
    # SGD: Adam's first step is the sign of the gradient, whose scale wouldn't show.
    sgd = optax.sgd(0.1)
    state, batch = fresh(ONE_LAYER, sgd), draw_batch(ONE_LAYER, 6, 7, weights=weights_of(kind, 6, 7))
    whole, metrics = one_step(state, batch, ONE_LAYER, sgd)
    assert max(jax.tree.leaves(jax.tree.map(lambda a, b: abs(a - b).max(), whole.params, state.params))) > 1e-3
    found, found_metrics = one_step(state, batch, ONE_LAYER, sgd, parts)
    assert_close(found.params, whole.params, 1e-6)
    assert_close(found_metrics, metrics, 1e-5)
    assert found.step == whole.step == 1


def test_a_block_of_n_steps_is_n_single_steps_bit_for_bit_and_compiles_once():
    mesh = make_mesh()
    cfg = ONE_LAYER
    update = compile_train(cfg, causal_lm, OPTIMIZER, mesh)
    block = draw_block(cfg, 5, 4, 7)
    placed = state_shardings(causal_lm.declare(cfg), OPTIMIZER, mesh)
    alone, losses = jax.device_put(fresh(cfg), placed), []
    for n in range(6):
        state, metrics = update(jax.device_put(fresh(cfg), placed), block, n)
        assert state.step == n
        assert_same(metrics["loss"][:n], jnp.array(losses))
        assert metrics["loss"].shape == (5,)
        assert_same((state.params, state.optimizer), (alone.params, alone.optimizer))
        assert jnp.array_equal(jax.random.key_data(state.key), jax.random.key_data(alone.key))
        if n < 5:
            alone, new = update(alone, jax.tree.map(lambda x, n=n: jnp.roll(x, -n, axis=0), block), 1)
            losses.append(new["loss"][0])
    assert update._cache_size() == 1
    assert len(set(map(float, losses))) == 5


def test_a_block_is_train_step_run_as_it_is():
    # SGD: Adam divides the rounding noise of a key bias, whose gradient is 0, by itself.
    cfg, sgd, block = ONE_LAYER, optax.sgd(0.1), draw_block(ONE_LAYER, 3, 4, 7)
    state, losses = fresh(cfg, sgd), []
    for i in range(3):
        state, metrics = one_step(state, jax.tree.map(lambda x, i=i: x[i], block), cfg, sgd)
        losses.append(metrics["loss"])
    found, found_metrics = compile_train(cfg, causal_lm, sgd, make_mesh())(fresh(cfg, sgd), block, 3)
    np.testing.assert_allclose(found_metrics["loss"], losses, rtol=1e-5)
    assert_close(found.params, state.params, 1e-5)


def test_the_metrics_are_the_loss_before_the_update_and_the_norm_of_its_gradient():
    state, batch = fresh(ONE_LAYER), draw_batch(ONE_LAYER, 3, 7)
    (loss, _), grads = loss_and_grads(state.params, batch, ONE_LAYER)
    _, metrics = one_step(state, batch, ONE_LAYER)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    norm = np.sqrt(sum(float((g.astype(np.float64) ** 2).sum()) for g in map(np.asarray, jax.tree.leaves(grads))))
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-5)


def test_dropout_is_drawn_from_the_key_and_the_step():
    cfg = replace(ONE_LAYER, dropout=0.3)
    batch = draw_batch(cfg, 4, 7)
    loss = lambda state, cfg=cfg, parts=1: float(one_step(state, batch, cfg, accumulation=parts)[1]["loss"])  # noqa: E731
    state = fresh(cfg)
    later, other = state.replace(step=jnp.array(1)), state.replace(key=jax.random.key(7))
    assert loss(state) == loss(fresh(cfg))
    assert len({loss(state), loss(later), loss(other), loss(state, ONE_LAYER)}) == 4
    assert loss(state, ONE_LAYER) == loss(later, ONE_LAYER) == loss(other, ONE_LAYER)


def test_dropout_differs_between_the_parts_of_a_batch():
    cfg = replace(ONE_LAYER, dropout=0.3)
    row = draw_batch(cfg, 1, 7)
    twice = jax.tree.map(lambda x: jnp.concatenate([x, x]), row)
    once = float(one_step(fresh(cfg), row, cfg)[1]["loss"])
    halves = []
    for half in range(2):  # a part of weight 0 leaves the other one alone
        weights = jnp.zeros((2, 7)).at[half].set(1.0)
        halves.append(float(one_step(fresh(cfg), twice | {"weights": weights}, cfg, accumulation=2)[1]["loss"]))
    assert len({once, *halves}) == 3


@functools.cache
def losses_on(mesh_config):
    """20 steps' losses. Waits on each: steps dispatched without waiting deadlock on simulated devices."""
    mesh = make_mesh(mesh_config)
    with jax.set_mesh(mesh):
        state = init_state(jax.random.key(3), causal_lm.declare(EVEN), OPTIMIZER, mesh)
        update = compile_train(EVEN, causal_lm, OPTIMIZER, mesh)
        losses = []
        for i in range(20):
            block = jax.tree.map(lambda x: np.asarray(x)[None], draw_batch(EVEN, 8, 16, seed=i % 4))
            state, metrics = update(state, place(block, mesh, (None, "batch", "time")), 1)
            losses.append(float(metrics["loss"][0]))
    return losses, state


@pytest.mark.parametrize(
    ("mesh_config", "embedding"),
    few(
        [
            (MeshConfig(data=2, fsdp=2, tensor=2), Spec("tensor", "fsdp")),
            (MeshConfig(data=8), Spec(None, None)),
            (MeshConfig(data=2, fsdp=4), Spec(None, "fsdp")),
            (MeshConfig(fsdp=4, tensor=2), Spec("tensor", "fsdp")),
        ]
    ),
    ids=["data-fsdp-tensor", "data", "fsdp", "fsdp-tensor"],
)
def test_a_mesh_of_8_devices_trains_as_one_device_does(mesh_config, embedding):
    wanted, _ = losses_on(MeshConfig())
    assert wanted[-1] < wanted[0] - 0.1
    found, state = losses_on(mesh_config)
    np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=0)
    # The state stayed where its declarations put it, moments beside their parameters.
    mesh = make_mesh(mesh_config)
    placed = state_shardings(causal_lm.declare(EVEN), OPTIMIZER, mesh)
    for x, sharding in zip(jax.tree.leaves(state), jax.tree.leaves(placed), strict=True):
        assert x.sharding.is_equivalent_to(sharding, x.ndim)
    for x in (state.params, state.optimizer[0].mu):
        assert x["embedding"]["token"].sharding.is_equivalent_to(NamedSharding(mesh, embedding), 2)


def test_an_evaluation_sums_nats_and_targets_over_its_batches():
    cfg, state = ONE_LAYER, fresh(ONE_LAYER)
    weights = np.random.default_rng(2).integers(0, 3, (3, 4, 7)).astype(np.float32)
    block = draw_block(cfg, 3, 4, 7) | {"weights": jnp.array(weights)}
    sums = compile_evaluate(cfg, causal_lm)(state.params, block)
    logits = jnp.stack([apply(state.params, x, cfg) for x in block["inputs"]])
    each = -jnp.take_along_axis(jax.nn.log_softmax(logits), block["targets"][..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(sums["nats"], (each * weights).sum(), rtol=1e-5)
    assert sums["weight"] == weights.sum()
    assert sums["correct"] == ((logits.argmax(-1) == block["targets"]) * weights).sum() > 0


def test_an_evaluation_sums_whatever_its_objective_counts():
    def count(params, batch, cfg, *, key=None):
        return jnp.zeros(()), {"rows": batch["labels"].sum(), "largest": params * batch["pixels"].max()}

    block = {"labels": jnp.array([[1.0, 2.0], [4.0, 8.0]]), "pixels": jnp.arange(12.0).reshape(2, 2, 3, 1)}
    sums = compile_evaluate(ONE_LAYER, replace(causal_lm, loss=count))(jnp.array(2.0), block)
    assert sums == {"rows": 15, "largest": 2 * (5 + 11)}


def test_a_block_of_another_shape_compiles_once_more():
    cfg = ONE_LAYER
    update = compile_train(cfg, causal_lm, OPTIMIZER, make_mesh())
    state = jax.device_put(fresh(cfg), state_shardings(causal_lm.declare(cfg), OPTIMIZER, make_mesh()))
    for rows, time in ((4, 7), (6, 3), (4, 7), (6, 3)):
        state, metrics = update(state, draw_block(cfg, 2, rows, time), 2)
        assert np.isfinite(metrics["loss"]).all()
    assert state.step == 8
    assert update._cache_size() == 2


def test_an_evaluation_drops_nothing():
    cfg = replace(ONE_LAYER, dropout=0.5)
    params, block = fresh(cfg).params, draw_block(cfg, 2, 3, 7)
    assert_same(compile_evaluate(cfg, causal_lm)(params, block), compile_evaluate(ONE_LAYER, causal_lm)(params, block))


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ((0, 25, 10), [10, 20, 25]),
        ((0, 20, 10, 8, 5), [5, 8, 10, 15, 16, 20]),
        ((7, 20, 10, 8), [8, 16, 20]),
        ((8, 20, 10, 8), [16, 20]),
        ((20, 20, 10, 8), []),
        ((0, 3, 1), [1, 2, 3]),
    ],
)
def test_dispatches_end_where_something_happens(arguments, wanted):
    assert block_ends(*arguments) == wanted


def test_a_cpus_programs_are_compiled_as_the_environment_says_or_fast(monkeypatch):
    assert _compiler_options("cpu") is None  # conftest.py's flags
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
    assert _compiler_options("cpu") == {"xla_backend_optimization_level": 2}
    assert _compiler_options("tpu") is None
    block = dict.fromkeys(("inputs", "targets"), draw_tokens(ONE_LAYER, 2, 5)[None])
    _, metrics = compile_train(ONE_LAYER, causal_lm, OPTIMIZER, make_mesh())(fresh(ONE_LAYER), block, 1)
    assert jnp.isfinite(metrics["loss"]).all()  # XLA knows the option
