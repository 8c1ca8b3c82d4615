from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import TINY, draw

from jaxgpt import attention as A
from jaxgpt.attention import KVCache, Mask, attend_by_blocks, attention, attention_params, attention_weights
from jaxgpt.feedforward import dropout

attend = jax.jit(A.attend, static_argnames="rate")


def random(*shape, seed=0):
    return jnp.array(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def qkv(batch, time, keys, heads, kv_heads, head_dim):
    shapes = (batch, time, heads, head_dim), (batch, keys, kv_heads, head_dim), (batch, keys, kv_heads, head_dim)
    return [random(*shape, seed=seed) for seed, shape in enumerate(shapes)]


def plain(query, key, value, seen, bias=None):
    """One query at a time, in float64; a query that sees nothing gets zeros."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    seen, out = np.broadcast_to(seen, (len(query), *np.shape(seen)[1:])), np.zeros(query.shape)
    bias = np.zeros(1) if bias is None else np.asarray(bias, np.float64)
    bias = np.broadcast_to(bias, (len(query), query.shape[2], query.shape[1], key.shape[1]))
    for b, t, h in np.ndindex(query.shape[:3]):
        places, kv = np.flatnonzero(seen[b, t]), h * key.shape[2] // query.shape[2]
        if len(places):
            scores = key[b, places, kv] @ query[b, t, h] / np.sqrt(query.shape[3]) + bias[b, h, t, places]
            weights = np.exp(scores - scores.max())
            out[b, t, h] = weights @ value[b, places, kv] / weights.sum()
    return out


PADDED = jnp.array([[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1]])
PACKED = jnp.array([[1, 1, 2, 2, 2, 3, 0], [4, 4, 4, 4, 4, 2, 2], [1, 2, 3, 4, 5, 6, 7]])
PLACES = jnp.array([[0, 1, 0, 1, 2, 0, -1], [0, 1, 2, 3, 4, 0, 1], [0, 0, 0, 0, 0, 0, 0]])
# A mask, and whether query place t of row b sees key place s.
MASKS = {
    "all": (Mask(causal=False), lambda b, t, s: True),
    "causal": (Mask(causal=True), lambda b, t, s: s <= t),
    "window": (Mask(causal=True, window=3), lambda b, t, s: t - 3 < s <= t),
    "window of one": (Mask(causal=True, window=1), lambda b, t, s: s == t),
    "window both ways": (Mask(causal=False, window=3), lambda b, t, s: abs(t - s) < 3),
    "padded": (
        Mask(causal=True, query_segments=PADDED, key_segments=PADDED),
        lambda b, t, s: s <= t and PADDED[b, s] and PADDED[b, t],
    ),
    "packed": (
        Mask(causal=True, query_positions=PLACES, key_positions=PLACES, query_segments=PACKED, key_segments=PACKED),
        lambda b, t, s: s <= t and PACKED[b, s] == PACKED[b, t] > 0,
    ),
    "packed window": (
        Mask(True, 2, query_positions=PLACES, key_positions=PLACES, query_segments=PACKED, key_segments=PACKED),
        lambda b, t, s: t - 2 < s <= t and PACKED[b, s] == PACKED[b, t] > 0,
    ),
}


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_shows_what_its_causes_say(name):
    mask, sees = MASKS[name]
    found = mask.dense(7, 7)
    wanted = [[[bool(sees(b, t, s)) for s in range(7)] for t in range(7)] for b in range(3)]
    np.testing.assert_array_equal(jnp.broadcast_to(found, (3, 7, 7)), wanted)


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("kv_heads", [6, 2, 1], ids=["MHA", "GQA", "MQA"])
def test_attend_is_the_formula_in_float64(name, kv_heads):
    query, key, value = qkv(3, 7, 7, 6, kv_heads, 5)
    seen = MASKS[name][0].dense(7, 7)
    np.testing.assert_allclose(attend(query, key, value, seen), plain(query, key, value, seen), atol=2e-6)


@pytest.mark.parametrize(("time", "keys"), [(1, 9), (4, 9), (1, 1), (9, 4)])
def test_queries_and_keys_may_differ_in_number_and_scores_have_a_bias(time, keys):
    query, key, value = qkv(2, time, keys, 6, 2, 5)
    seen, bias = random(1, time, keys, seed=3) > -1, random(1, 6, time, keys, seed=4)
    found = attend(query, key, value, seen, bias=bias)
    np.testing.assert_allclose(found, plain(query, key, value, seen, bias), atol=2e-6)


def test_a_query_that_sees_nothing_gets_zeros_and_finite_gradients():
    query, key, value = qkv(2, 3, 4, 6, 2, 5)
    seen = jnp.array([[[True] * 4, [False] * 4, [False, True, False, False]]])
    out = attend(query, key, value, seen)
    assert (out[:, 1] == 0).all()
    assert (out[:, 0] != 0).all()
    np.testing.assert_allclose(out[:, 2], value[:, 1].repeat(3, axis=1), rtol=1e-6)
    gradients = jax.jit(jax.grad(lambda *x: (A.attend(*x, seen) ** 2).sum(), (0, 1, 2)))(query, key, value)
    assert all(jnp.isfinite(g).all() for g in gradients)
    assert (gradients[0][:, 1] == 0).all()
    weights = jax.jit(attention_weights)(query, key, seen)
    np.testing.assert_allclose(weights.sum(-1)[0, 0], [1, 0, 1], rtol=1e-6)


def test_gradients_are_those_of_the_formula():
    query, key, value = qkv(1, 3, 4, 4, 2, 3)
    seen, cotangent = jnp.tri(3, 4, 1, dtype=bool)[None], random(1, 3, 4, 3, seed=5)
    gradients = jax.jit(jax.grad(lambda *x: (A.attend(*x, seen) * cotangent).sum(), (0, 1, 2)))(query, key, value)
    for i, gradient in enumerate(gradients):
        direction = np.asarray(random(*gradient.shape, seed=6), np.float64)

        def moved(step, i=i, direction=direction):
            inputs = [np.asarray(x, np.float64) for x in (query, key, value)]
            inputs[i] = inputs[i] + step * direction
            return float((plain(*inputs, seen) * np.asarray(cotangent)).sum())

        assert float((gradient * direction).sum()) == pytest.approx(
            (moved(1e-5) - moved(-1e-5)) / 2e-5, rel=1e-4, abs=1e-5
        )


def test_kv_heads_that_do_not_divide_the_heads_are_refused():
    query, key, value = qkv(1, 3, 3, 6, 4, 5)
    with pytest.raises(ValueError, match="attend: found 4 kv heads, expected a divisor of 6 heads"):
        attend(query, key, value, jnp.ones((1, 3, 3), bool))


def test_dropout_drops_weights_after_the_softmax():
    query, key, value = qkv(2, 3, 4, 6, 6, 5)
    seen, at = jnp.ones((1, 3, 4), bool), jax.random.key(0)
    weights = dropout(attention_weights(query, key, seen), 0.4, at)
    wanted = jnp.einsum("bhts,bshk->bthk", weights, value)
    np.testing.assert_allclose(attend(query, key, value, seen, rate=0.4, dropout_key=at), wanted, atol=1e-6)
    np.testing.assert_array_equal(
        attend(query, key, value, seen, rate=0.4), attend(query, key, value, seen, dropout_key=at)
    )


def test_low_precision_inputs_have_float32_scores():
    query, key, value = (x.astype("bfloat16") for x in qkv(2, 7, 7, 6, 2, 4))
    seen = MASKS["causal"][0].dense(7, 7)
    assert attention_weights(query, key, seen).dtype == "float32"
    found = attend(query, key, value, seen)
    assert found.dtype == "bfloat16"
    np.testing.assert_allclose(found.astype("float32"), plain(query, key, value, seen), atol=2e-2)


@pytest.mark.parametrize("time", [1, 128, 129, 259])
def test_blocks_of_queries_give_the_values_and_gradients_of_the_whole(time):
    inputs, mask, cotangent = qkv(1, time, time, 4, 2, 3), Mask(causal=True), random(1, time, 4, 3, seed=5)

    def run(f):
        def total(inputs):
            out = f(*inputs)
            return (out * cotangent).sum(), out

        return jax.jit(jax.value_and_grad(total, has_aux=True))(inputs)

    (_, found), gradients = run(lambda *x: attend_by_blocks(*x, mask))
    (_, wanted), wanted_gradients = run(lambda *x: A.attend(*x, mask.dense(time, time)))
    np.testing.assert_allclose(found, wanted, atol=2e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), gradients, wanted_gradients)


def test_the_layer_projects_attends_and_projects_back():
    params, x = draw(attention_params(TINY)), random(2, 5, 14)
    out, cache, weights = attention(params, x, TINY, Mask(causal=True))
    assert cache is None
    assert weights is None

    def project(name):
        return jnp.einsum("btd,dhk->bthk", x, params[name]["kernel"]) + params[name]["bias"]

    heads = plain(*(project(name) for name in ("query", "key", "value")), np.tri(5, dtype=bool)[None])
    wanted = np.einsum("bthk,hkd->btd", heads, params["output"]["kernel"]) + params["output"]["bias"]
    np.testing.assert_allclose(out, wanted, atol=2e-5)


def test_an_empty_cache_has_room_for_the_context_or_what_is_asked():
    cache = KVCache.empty(replace(TINY, dtype="bfloat16"), batch=5)
    assert [x.shape for x in cache.key] == [x.shape for x in cache.value] == [(5, 2, 19, 4)] * 3
    assert cache.key[0].dtype == "bfloat16"
    assert KVCache.empty(TINY, 5, slots=8).key[2].shape == (5, 2, 8, 4)
    assert cache.used == 0
    assert (cache.positions == -1).all()


def test_a_cache_counts_each_row_s_real_tokens_and_fills_slots_alike():
    cache = KVCache.empty(TINY, batch=2, slots=8)
    cache, first = cache.extend(jnp.array([[False, True, True], [True, True, False]]))
    np.testing.assert_array_equal(first, [[-1, 0, 1], [0, 1, -1]])
    key, value = random(2, 3, 2, 4), random(2, 3, 2, 4, seed=1)
    cache = cache.write(1, key, value)
    cache, second = cache.extend(jnp.array([[True, True], [True, False]]))
    np.testing.assert_array_equal(second, [[2, 3], [2, -1]])
    assert cache.used == 5
    np.testing.assert_array_equal(cache.positions, [[-1, 0, 1, 2, 3, -1, -1, -1], [0, 1, -1, 2, -1, -1, -1, -1]])
    after = cache.write(1, key[:, :2], value[:, :2])
    np.testing.assert_array_equal(
        after.read(1)[0], jnp.pad(jnp.concatenate([key, key[:, :2]], 1), [(0, 0), (0, 3)] + [(0, 0)] * 2)
    )
    np.testing.assert_array_equal(after.read(1)[1][:, 3:5], value[:, :2])
    assert not after.key[0].any()
    assert not after.key[2].any()


def test_segment_runs_count_each_run_from_zero():
    segments = jnp.array([[1, 1, 1, 2, 3, 3, 0], [0, 0, 5, 5, 1, 0, 0], [7, 7, 7, 7, 7, 7, 7]])
    wanted = [[0, 1, 2, 0, 0, 1, -1], [-1, -1, 0, 1, 0, -1, -1], [0, 1, 2, 3, 4, 5, 6]]
    runs, places = A.segment_runs(segments)
    np.testing.assert_array_equal(places, wanted)
    np.testing.assert_array_equal(runs == 0, segments == 0)
    (row,) = A.segment_runs(jnp.array([[4, 4, 9, 4, 0, 4]]))[0]
    assert len(set(row.tolist())) == 5  # four runs and the padding
