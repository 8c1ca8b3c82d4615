import re
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import SCHEMES, TINY, draw, draw_tokens

from jaxgpt.embeddings import (
    embed,
    embedding_params,
    relative_bias,
    relative_bucket,
    relative_params,
    sinusoid,
    unembed,
)

GOLDEN = np.load(Path(__file__).parent / "golden" / "t5_buckets.npz")
POSITIONS = np.array([[0, 1, 2, 3, 4], [7, 0, 700, 256, 257]])  # any order, and past bfloat16's integers


def test_a_sinusoid_is_sines_in_even_columns_and_cosines_in_odd_ones():
    found = sinusoid(jnp.array(POSITIONS), 6)
    for row, column in np.ndindex(POSITIONS.shape):
        for i in range(3):
            angle = POSITIONS[row, column] / 10000 ** (2 * i / 6)
            wanted = [np.sin(angle), np.cos(angle)]
            np.testing.assert_allclose(found[row, column, 2 * i : 2 * i + 2], wanted, atol=1e-4 if angle > 9 else 1e-6)


def test_a_split_sinusoid_has_the_same_columns_sines_first():
    found = np.asarray(sinusoid(jnp.array(POSITIONS), 6))
    np.testing.assert_array_equal(sinusoid(jnp.array(POSITIONS), 6, split=True), found[..., [0, 2, 4, 1, 3, 5]])


def test_an_offset_table_begins_with_rows_that_no_position_reads():
    cfg = replace(TINY, position_offset=2)
    params, tokens = draw(embedding_params(cfg)), draw_tokens(cfg, 2, 5)
    assert params["position"].shape == (TINY.context_length + 2, TINY.d_model)
    plain = params | {"position": params["position"][2:]}
    places = jnp.arange(5)[None]
    np.testing.assert_array_equal(embed(params, tokens, places, cfg), embed(plain, tokens, places, TINY))


def t5_bucket(distance: int, buckets: int, max_distance: int, bidirectional: bool) -> int:
    """Raffel et al. 2020, in float64, a number at a time."""
    start = 0
    if bidirectional:
        buckets //= 2
        start = buckets if distance > 0 else 0
        distance = abs(distance)
    else:
        distance = max(-distance, 0)
    exact = buckets // 2
    if distance < exact:
        return start + distance
    share = np.log(distance / exact) / np.log(max_distance / exact)
    return start + min(exact + int(share * (buckets - exact) + 1e-9), buckets - 1)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("buckets", "far"), [(32, 128), (14, 50)])
def test_buckets_are_t5_s(buckets, far, bidirectional):
    distance = GOLDEN["distance"]
    found = jax.jit(relative_bucket, static_argnums=(1, 2, 3))(jnp.array(distance), buckets, far, bidirectional)
    np.testing.assert_array_equal(found, GOLDEN[f"{buckets}/{far}/{bidirectional}"])
    np.testing.assert_array_equal(found, [t5_bucket(int(d), buckets, far, bidirectional) for d in distance])


@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_relative_bias_is_one_number_a_head_and_bucket(bidirectional):
    cfg = replace(SCHEMES["relative"], relative_buckets=None, relative_max_distance=None)
    table = draw(relative_params(cfg))
    queries, keys = np.array([[3, 40, 7]]), np.array([[0, 5, 60, -1], [7, 8, 200, 3]])
    found = relative_bias(table, jnp.array(queries), jnp.array(keys), cfg, bidirectional)
    assert found.shape == (2, 6, 3, 4)
    for b, h, t, s in np.ndindex(found.shape):
        bucket = t5_bucket(int(keys[b, s] - queries[0, t]), 32, 128, bidirectional)
        assert found[b, h, t, s] == table[bucket, h]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_embedding_adds_the_token_s_row_and_the_place_s(scheme):
    cfg, positions = SCHEMES[scheme], jnp.array([[0, 1, 2], [18, 4, 0]])
    params, tokens = draw(embedding_params(cfg)), draw_tokens(TINY, 2, 3)
    wanted = np.asarray(params["token"])[tokens]
    wanted = (
        wanted
        + {
            "learned": lambda: np.asarray(params["position"])[positions],
            "sinusoidal": lambda: np.asarray(sinusoid(positions, 14)),
            "rotary": lambda: 0,
            "relative": lambda: 0,
        }[scheme]()
    )
    np.testing.assert_allclose(embed(params, tokens, positions, cfg), wanted, rtol=1e-6)
    one_row = embed(params, tokens, positions[:1], cfg)  # places shared by the rows
    np.testing.assert_array_equal(one_row[1], embed(params, tokens[1:], positions[:1], cfg)[0])


def test_ids_outside_the_table_read_its_nearest_row():
    params = draw(embedding_params(TINY))
    found = embed(params, jnp.array([[23, 99]]), jnp.array([[0, 19]]), TINY)
    wanted = params["token"][22] + params["position"][jnp.array([0, 18])]
    np.testing.assert_array_equal(found[0], wanted)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_head_makes_float32_and_goes_back_in_the_dtype_of_the_states(dtype):
    cfg = replace(TINY, dtype=dtype)
    params, x = {"embedding": draw(embedding_params(cfg))}, jnp.ones((2, 3, cfg.d_model), dtype)
    assert unembed(params, x, cfg).dtype == jnp.float32
    gradient = jax.jit(jax.grad(lambda params, x: jnp.sin(unembed(params, x, cfg)).sum(), argnums=(0, 1)))
    products = re.findall(
        r"dot_general.* : \(tensor<\S+x(\w+)>, tensor<\S+x(\w+)>\)", gradient.lower(params, x).as_text()
    )
    assert len(products) == 3  # the logits, and the gradients of states and matrix
    assert {kind for pair in products for kind in pair} == {{"bfloat16": "bf16", "float32": "f32"}[dtype]}
