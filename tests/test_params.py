from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from jax.sharding import PartitionSpec
from tiers import few
from tiny import SCHEMES, TINY, draw

from jaxgpt import gpt, sharding
from jaxgpt import params as P

CONFIGS = {**SCHEMES, "untied": replace(TINY, tie_embeddings=False)}
SMALL = {
    "a": {"kernel": P.weight((3, 5), ("embed", "mlp"), 0.5), "bias": P.bias((5,), ("mlp",))},
    "b": P.scale((4,), (None,)),
}


def test_a_parameter_names_every_axis():
    with pytest.raises(ValueError, match=r"Param: found 1 axes \('embed',\), expected one for each of \(3, 5\)"):
        P.weight((3, 5), ("embed",), 0.02)


def test_a_draw_depends_on_the_path_alone():
    more = {"0": P.weight((3, 5), (None, None), 0.5), **SMALL, "z": {"kernel": P.weight((2,), (None,), 0.5)}}
    more["a"] = {"a_first": P.weight((7,), (None,), 1.0), **SMALL["a"]}
    few, many = P.init(jax.random.key(0), SMALL), P.init(jax.random.key(0), more)
    np.testing.assert_array_equal(few["a"]["kernel"], many["a"]["kernel"])
    assert jnp.abs(many["0"] - many["a"]["kernel"]).max() > 0.1  # same shape, another path
    assert jnp.abs(P.init(jax.random.key(1), SMALL)["a"]["kernel"] - few["a"]["kernel"]).max() > 0.1
    untied, tied = (gpt.init(jax.random.key(0), CONFIGS[name]) for name in ("untied", "learned"))
    jax.tree.map(np.testing.assert_array_equal, {name: untied[name] for name in tied}, tied)


def test_initial_values_are_normal_zero_and_one():
    params = P.init(jax.random.key(0), {**SMALL, "w": P.weight((300, 200), (None, None), 0.5)})
    assert float(params["w"].std()) == pytest.approx(0.5, rel=0.02)
    assert float(params["w"].mean()) == pytest.approx(0, abs=0.01)
    assert (params["a"]["bias"] == 0).all()
    assert (params["b"] == 1).all()


def test_the_initial_scale_is_init_std_and_less_where_residuals_add_up():
    cfg = replace(TINY, d_model=96, d_ff=200, init_std=0.3, n_layers=2)
    params = gpt.init(jax.random.key(0), replace(cfg, tie_embeddings=False, gated=True))
    layers = params["layers"]
    for kernel in [layers["mlp"]["up"], layers["mlp"]["gate"], layers["attention"]["query"], params["head"]]:
        assert float(kernel["kernel"].std()) == pytest.approx(0.3, rel=0.05)
    for kernel in [layers["mlp"]["down"], layers["attention"]["output"]]:
        assert float(kernel["kernel"].std()) == pytest.approx(0.15, rel=0.05)


def test_a_sharded_init_draws_the_same_numbers_into_its_shards():
    mesh = sharding.make_mesh(sharding.MeshConfig(data=2, fsdp=2, tensor=2))
    declarations = gpt.declare(TINY)
    whole, cut = (P.init(jax.random.key(0), declarations, m) for m in (None, mesh))
    jax.tree.map(np.testing.assert_array_equal, whole, cut)
    assert cut["layers"]["attention"]["query"]["kernel"].sharding.spec == PartitionSpec(
        None, ("fsdp",), ("tensor",), None
    )
    wanted = P.shardings(declarations, mesh)
    assert all(jax.tree.leaves(jax.tree.map(lambda x, s: x.sharding.is_equivalent_to(s, x.ndim), cut, wanted)))


def test_init_is_traced_like_any_function():
    keys = jax.random.split(jax.random.key(0), 3)
    same = {"xla_backend_optimization_level": 1}  # as `init` compiles by itself
    found = jax.jit(jax.vmap(lambda key: P.init(key, SMALL)), compiler_options=same)(keys)
    for i in range(3):
        jax.tree.map(lambda x, y, i=i: np.testing.assert_array_equal(x[i], y), found, P.init(keys[i], SMALL))
    assert jax.eval_shape(lambda key: P.init(key, SMALL), keys[0]) == P.abstract(SMALL)


@pytest.mark.parametrize("name", CONFIGS)
def test_decay_acts_on_kernels_and_embeddings_alone(name):
    mask = flatten_dict(P.decay_mask(gpt.declare(CONFIGS[name])), sep="/")
    assert mask == {
        path: path.endswith("kernel") or path.startswith("embedding/") or path == "relative" for path in mask
    }
    assert 0 < sum(mask.values()) < len(mask)


@pytest.mark.parametrize("name", few(CONFIGS, 2))
def test_abstract_and_count_are_those_of_the_arrays(name):
    declarations = gpt.declare(CONFIGS[name])
    params = gpt.init(jax.random.key(0), CONFIGS[name])
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    assert P.abstract(declarations) == shapes
    assert P.count(declarations) == sum(x.size for x in jax.tree.leaves(params))
    mesh = sharding.make_mesh(sharding.MeshConfig(fsdp=2))
    placed = jax.tree.map(lambda x: x.sharding, P.abstract(declarations, mesh))
    assert placed == P.shardings(declarations, mesh)


def test_stacked_declarations_gain_a_layer_axis():
    stacked = P.stack(SMALL, 7)
    assert stacked["a"]["kernel"] == replace(SMALL["a"]["kernel"], shape=(7, 3, 5), axes=("layers", "embed", "mlp"))
    assert not stacked["b"].decay


def test_unstack_gives_each_layer_and_its_gradient_is_indexing_s():
    stacked = draw(P.stack(SMALL, 4))
    layers = P.unstack(stacked, 4)
    assert P.unstack(layers, 4) is layers
    jax.tree.map(lambda x, *ys: np.testing.assert_array_equal(x, np.stack(ys)), stacked, *layers)

    def total(split):
        def f(params):
            parts = split(params)
            return sum((i + 1) * jnp.sum(x**3) for i, part in enumerate(parts) for x in jax.tree.leaves(part))

        return jax.grad(f)(stacked)

    indexed = total(lambda p: [jax.tree.map(lambda x: x[i], p) for i in range(4)])  # noqa: B023
    jax.tree.map(np.testing.assert_array_equal, total(lambda p: P.unstack(p, 4)), indexed)


def test_cast_computes_in_one_dtype_and_returns_gradients_in_another():
    params = draw(SMALL)
    assert {x.dtype for x in jax.tree.leaves(P.cast(params, "bfloat16"))} == {jnp.dtype("bfloat16")}
    grads = jax.grad(lambda p: sum(x.sum() for x in jax.tree.leaves(P.cast(p, "bfloat16"))).astype("float32"))(params)
    assert {x.dtype for x in jax.tree.leaves(grads)} == {jnp.dtype("float32")}
