from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import SCHEMES, TINY, draw

from jaxgpt import params as P
from jaxgpt.attention import Mask
from jaxgpt.feedforward import norm
from jaxgpt.stack import block, stack, stack_params

MASK = Mask(causal=True)
CFG = replace(TINY, n_layers=2, dropout=0.3)
X = jnp.array(np.random.default_rng(1).normal(size=(2, 5, 14)), jnp.float32)
STACK = draw(stack_params(CFG, 2))
PARAMS = STACK["layers"]
RUNS = {
    "unrolled": {},
    "scan": {"scan_layers": True},
    "unrolled dots": {"remat": "dots"},
    "scan full": {"scan_layers": True, "remat": "full"},
}


@pytest.fixture(scope="module", params=[None, 7], ids=["no key", "key"])
def results(request):
    """Values and gradients of every way to run, with and without dropout."""
    key = None if request.param is None else jax.random.key(request.param)

    def run(cfg):
        def total(params, x):
            y, cache, weights = stack(params, x, cfg, MASK, key=key)
            assert cache is None
            assert weights is None
            return (y * jnp.cos(jnp.arange(14))).sum(), y

        return jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(STACK, X)

    return {name: run(replace(CFG, **changes)) for name, changes in RUNS.items()}


@pytest.mark.parametrize("name", [name for name in RUNS if name != "unrolled"])
def test_every_way_to_run_the_layers_gives_the_same_values_and_gradients(results, name):
    def agree(found, wanted):
        np.testing.assert_allclose(found, wanted, atol=1e-6 + 2e-6 * float(jnp.abs(wanted).max()))

    jax.tree.map(agree, results[name], results["unrolled"])


@pytest.mark.parametrize("scan", [False, True])
def test_dropout_acts_in_every_layer_and_on_a_key_alone(scan):
    """Turn one sublayer at a time off by a zero output kernel: what is left must still be random."""
    cfg = replace(CFG, scan_layers=scan)
    run = jax.jit(lambda layers, key: stack(STACK | {"layers": layers}, X, cfg, MASK, key=key).x)
    first, again, second = (run(PARAMS, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert jnp.abs(first - second).max() > 1e-2
    for layer in range(2):
        for alive in ("attention", "mlp"):
            params = jax.tree.map(jnp.zeros_like, PARAMS)
            params[alive] = jax.tree.map(lambda x, i=layer: jnp.zeros_like(x).at[i].set(x[i]), PARAMS[alive])
            params[f"{alive}_norm"] = PARAMS[f"{alive}_norm"]
            assert jnp.abs(run(params, jax.random.key(0)) - run(params, jax.random.key(1))).max() > 1e-2


def test_a_tuple_of_layers_is_run_as_it_is():
    layers = P.unstack(PARAMS, 2)
    wanted = stack(STACK, X, CFG, MASK).x
    unstacked = STACK | {"layers": layers}
    np.testing.assert_allclose(stack(unstacked, X, replace(CFG, scan_layers=True), MASK).x, wanted, atol=1e-5)
    one_by_one = X
    for layer in layers:
        one_by_one = block(layer, one_by_one, TINY, MASK).x
    np.testing.assert_allclose(wanted, norm(STACK["final_norm"], one_by_one, CFG), atol=1e-5)
    backwards = STACK | {"layers": layers[::-1]}
    assert jnp.abs(stack(backwards, X, CFG, MASK).x - wanted).max() > 1e-2  # and in their order


@pytest.mark.parametrize("scheme", ["learned", "rotary", "relative"])
def test_bfloat16_stays_near_float32(scheme):
    cfg = replace(SCHEMES[scheme], n_layers=2)
    params = jax.tree.map(lambda x: x / 2, draw(stack_params(cfg, 2)))
    wanted = jax.jit(lambda p: stack(p, X, cfg, MASK).x)(params)
    low = jax.jit(lambda p: stack(p, X.astype("bfloat16"), cfg, MASK).x)(P.cast(params, "bfloat16"))
    assert low.dtype == "bfloat16"
    error = jnp.sqrt(jnp.square(low.astype("float32") - wanted).mean() / jnp.square(wanted).mean())
    assert 1e-4 < error < 2e-2  # 8 bits of mantissa round by 2e-3


def test_a_residual_block_with_zero_outputs_is_the_identity_or_its_norm():
    layer = P.unstack(PARAMS, 2)[0]
    zeros = layer | {
        "attention": layer["attention"] | {"output": jax.tree.map(jnp.zeros_like, layer["attention"]["output"])},
        "mlp": layer["mlp"] | {"down": jax.tree.map(jnp.zeros_like, layer["mlp"]["down"])},
    }
    np.testing.assert_array_equal(block(zeros, X, TINY, MASK).x, X)
    post = block(zeros, X, replace(TINY, norm_position="post"), MASK).x
    gain, shift = layer["mlp_norm"]["scale"], layer["mlp_norm"]["bias"]
    standard = (post - shift) / gain
    np.testing.assert_allclose(standard.mean(-1), 0, atol=1e-4)
    np.testing.assert_allclose(standard.std(-1), 1, atol=1e-3)
