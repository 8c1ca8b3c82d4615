from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special
from tiny import TINY, draw, numerical_gradient

from jaxgpt import feedforward
from jaxgpt.feedforward import activation, dropout, linear, linear_params, mlp, mlp_params, norm, norm_params


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def float64(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def plain_norm(params, x, cfg):
    if cfg.norm == "layer":
        x = x - x.mean(-1, keepdims=True)
    y = x / np.sqrt((x**2).mean(-1, keepdims=True) + cfg.norm_epsilon) * params["scale"]
    return y + params.get("bias", 0)


NORMS = {
    "layer": replace(TINY, norm_epsilon=1e-3),
    "layer, no bias": replace(TINY, bias=False),
    "rms": replace(TINY, norm="rms", norm_epsilon=0.1),
}


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("mean", [0.0, 1000.0])
def test_norms_are_the_formula_in_float64(name, mean):
    cfg = NORMS[name]
    params, x = draw(norm_params(cfg)), (random(2, 3, 14) + mean).astype(np.float32)
    assert ("bias" in params) == (name == "layer")
    wanted = plain_norm(float64(params), float64(x), cfg)
    # A mean of 1000 leaves float32 inputs 14 bits below it; E[x^2] - E[x]^2 would leave none.
    np.testing.assert_allclose(norm(params, jnp.array(x), cfg), wanted, atol=3e-4 if mean else 3e-6)


@pytest.mark.parametrize("name", NORMS)
def test_norm_gradients_are_finite_differences(name):
    cfg = NORMS[name]
    params, x, cotangent = draw(norm_params(cfg)), random(3, 14).astype(np.float32), random(3, 14, seed=1)
    gradients = jax.grad(lambda p, x: (norm(p, x, cfg) * cotangent.astype(np.float32)).sum(), (0, 1))(params, x)
    wanted = numerical_gradient(lambda x: (plain_norm(float64(params), x, cfg) * cotangent).sum(), float64(x))
    np.testing.assert_allclose(gradients[1], wanted, rtol=1e-4, atol=1e-5)
    for leaf in params:
        wanted = numerical_gradient(
            lambda p, leaf=leaf: (plain_norm(float64(params) | {leaf: p}, float64(x), cfg) * cotangent).sum(),
            float64(params[leaf]),
        )
        np.testing.assert_allclose(gradients[0][leaf], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["layer", "rms"])
def test_norms_of_bfloat16_are_computed_in_float32(name):
    cfg = NORMS[name]
    x = jnp.array(random(2, 14) * 3 + 40, "bfloat16")
    params = jax.tree.map(jnp.ones_like, draw(norm_params(cfg))) | {"scale": jnp.ones(14, "bfloat16")}
    params = {leaf: value.astype("bfloat16") for leaf, value in params.items()}
    found = norm(params, x, cfg)
    assert found.dtype == "bfloat16"
    wanted = plain_norm(float64(params), float64(x), cfg)
    np.testing.assert_allclose(found.astype("float32"), wanted, rtol=1e-2, atol=1e-2)


ACTIVATIONS = {
    "gelu": lambda x: x * special.ndtr(x),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x * special.expit(x),
}
POINTS = np.array([-30.0, -5, -1.7, -0.3, -1e-3, 1e-3, 0.7, 2.1, 6, 40])


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_and_their_slopes_are_the_formula_in_float64(name):
    def f(x):
        return activation(x, replace(TINY, activation=name))

    np.testing.assert_allclose(f(jnp.array(POINTS)), ACTIVATIONS[name](POINTS), rtol=2e-6, atol=1e-6)
    slopes = (ACTIVATIONS[name](POINTS + 1e-6) - ACTIVATIONS[name](POINTS - 1e-6)) / 2e-6
    np.testing.assert_allclose(jax.vmap(jax.grad(f))(jnp.array(POINTS)), slopes, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ({"embed": 5}, {"mlp": 7}),
        ({"embed": 5}, {"heads": 3, "head_dim": 4}),
        ({"heads": 3, "head_dim": 4}, {"embed": 5}),
    ],
)
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("time_is_cut", [True, False])
def test_linear_is_a_sum_over_all_input_axes(inputs, outputs, has_bias, time_is_cut, monkeypatch):
    monkeypatch.setattr(feedforward, "time_is_cut", lambda: time_is_cut)
    declared = linear_params(inputs, outputs, 0.1, has_bias)
    assert declared["kernel"].axes == (*inputs, *outputs)
    params, x = draw(declared), random(2, 6, *inputs.values()).astype(np.float32)
    assert ("bias" in params) == has_bias
    wanted = np.tensordot(float64(x), float64(params["kernel"]), len(inputs)) + float64(params.get("bias", 0.0))
    assert wanted.shape == (2, 6, *outputs.values())
    np.testing.assert_allclose(linear(params, jnp.array(x)), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("gated", "name"), [(False, "relu"), (True, "silu"), (True, "gelu")])
def test_the_mlp_is_its_formula_and_its_gradient_finite_differences(gated, name):
    cfg = replace(TINY, gated=gated, activation=name)
    params, x, cotangent = draw(mlp_params(cfg)), random(1, 3, 14), random(1, 3, 14, seed=1)
    weights = float64(params)

    def plain(x):
        up, gate, down = (weights.get(part, weights["up"]) for part in ("up", "gate", "down"))
        hidden = ACTIVATIONS[name](x @ gate["kernel"] + gate["bias"])
        if gated:
            hidden = hidden * (x @ up["kernel"] + up["bias"])
        return hidden @ down["kernel"] + down["bias"]

    np.testing.assert_allclose(mlp(params, jnp.array(x), cfg), plain(x), rtol=1e-5, atol=1e-5)
    gradient = jax.grad(lambda x: (mlp(params, x, cfg) * cotangent.astype(np.float32)).sum())(jnp.array(x))
    wanted = numerical_gradient(lambda x: (plain(x) * cotangent).sum(), x)
    np.testing.assert_allclose(gradient, wanted, rtol=1e-4, atol=1e-4)


def test_dropout_zeroes_a_share_and_keeps_the_mean():
    x = jnp.full((300, 200), 3.0)
    dropped = dropout(x, 0.3, jax.random.key(0))
    assert float((dropped == 0).mean()) == pytest.approx(0.3, abs=0.01)  # 5 standard deviations
    assert float(dropped.mean()) == pytest.approx(3.0, rel=0.02)
    shown = round(0.7 * 2**16) / 2**16  # the share that 16 bits can show
    np.testing.assert_allclose(np.unique(dropped), [0, 3 / shown], rtol=1e-6)
    assert (dropout(x, 1e-6, jax.random.key(0)) == x).all()  # less than 16 bits can show
    assert jnp.isfinite(dropout(x, 0.9999999, jax.random.key(0))).all()
    assert (dropout(x, 0.3, jax.random.key(1)) != dropped).any()
    assert dropout(x.astype("bfloat16"), 0.3, jax.random.key(0)).dtype == "bfloat16"


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_dropout_drops_elements_one_by_one(impl):
    keys = jax.random.split(jax.random.key(3, impl=impl), 16)
    masks = np.array(jax.vmap(lambda key: dropout(jnp.ones((64, 512)), 0.25, key))(keys) == 0, float) - 0.25
    # Of independent draws, sums of products of two masks' elements have this standard deviation.
    spread = 0.25 * 0.75
    for lag in (1, 2, 3, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096):  # near and far elements of one mask
        flat = masks.reshape(16, -1)
        products = flat[:, lag:] * flat[:, :-lag]
        assert abs(products.mean()) < 5 * spread / products.size**0.5
    for a in range(16):  # of two keys that are split from one
        for b in range(a):
            assert abs((masks[a] * masks[b]).mean()) < 5 * spread / masks[0].size ** 0.5
    rows, columns = masks.mean((0, 2)), masks.mean((0, 1))
    assert np.abs(rows).max() < 5 * spread**0.5 / (16 * 512) ** 0.5
    assert np.abs(columns).max() < 5 * spread**0.5 / (16 * 64) ** 0.5
    # Neighbours' keys: consecutive words, as of a counter.
    near = [
        jax.random.wrap_key_data(jnp.array([7, word] * (len(jax.random.key_data(keys[0])) // 2), "uint32"), impl=impl)
        for word in range(16)
    ]
    masks = np.array([dropout(jnp.ones((64, 512)), 0.25, key) == 0 for key in near], float) - 0.25
    assert abs((masks[1:] * masks[:-1]).mean()) < 5 * spread / masks[1:].size ** 0.5
    assert np.unique(masks.reshape(16, -1), axis=0).shape[0] == 16


def test_dropout_without_a_key_or_a_rate_is_the_identity():
    x = jnp.ones((2, 3))
    assert dropout(x, 0.3, None) is x
    assert dropout(x, 0.0, jax.random.key(0)) is x
