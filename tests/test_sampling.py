"""Each filter against a float64 reference, each draw against the distribution that it claims."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxgpt import sampling
from jaxgpt.sampling import Sampler

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 2, (5, 23)).astype(np.float32)
TIED = np.round(LOGITS)
DRAWS = 20_000


def softmax(x):
    weights = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def kept(filtered, logits):
    """Which tokens a filter left; those it left must be as they were."""
    filtered = np.asarray(filtered)
    left = filtered > -np.inf
    np.testing.assert_array_equal(filtered[left], logits[left])
    return left


def smallest_sets(logits, p):
    """By sorting: the fewest tokens whose probability reaches p, the lowest ids first among equals."""
    sets = np.zeros(logits.shape, bool)
    for row, probabilities in zip(sets, softmax(logits), strict=True):
        order = np.argsort(-probabilities, kind="stable")
        reached = np.flatnonzero(probabilities[order].cumsum() >= p - 1e-9)
        row[order[: reached[0] + 1 if len(reached) else len(order)]] = True
    return sets


@pytest.mark.parametrize("logits", [LOGITS, TIED])
@pytest.mark.parametrize("k", [1, 2, 7, 22, 23, 24, 1000])
def test_top_k_keeps_the_k_largest_and_what_equals_the_last(logits, k):
    threshold = np.sort(logits)[:, ::-1][:, min(k, 23) - 1 :][:, :1]
    np.testing.assert_array_equal(kept(sampling.top_k(jnp.asarray(logits), k), logits), logits >= threshold)


@pytest.mark.parametrize("logits", [LOGITS, TIED, np.zeros_like(LOGITS)])
@pytest.mark.parametrize("p", [1e-45, 1e-38, 1e-6, 0.1, 0.51, 0.9, 0.999, 1.0])
def test_top_p_keeps_the_smallest_set_that_reaches_p(logits, p):
    np.testing.assert_array_equal(kept(sampling.top_p(jnp.asarray(logits), p), logits), smallest_sets(logits, p))


def test_top_p_takes_the_token_that_crosses_and_no_more():
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.125, 0.125]]))
    assert [int((sampling.top_p(jnp.asarray(logits), p) > -jnp.inf).sum()) for p in (0.5, 0.51, 0.75, 0.76)] == [
        1,
        2,
        2,
        3,
    ]


@pytest.mark.parametrize("logits", [LOGITS, TIED])
@pytest.mark.parametrize("p", [0.0, 0.03, 0.5, 1.0])
def test_min_p_keeps_what_is_likely_beside_the_most_likely(logits, p):
    probabilities = softmax(logits)
    expected = probabilities >= p * probabilities.max(-1, keepdims=True)
    np.testing.assert_array_equal(kept(sampling.min_p(jnp.asarray(logits), p), logits), expected)


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_filters_take_both_zeros_for_equal_and_hidden_tokens_stay_hidden(zero):
    logits = np.array([[zero, 0.0, -1.0, -np.inf]], np.float32)
    np.testing.assert_array_equal(sampling.top_k(jnp.asarray(logits), 1)[0] > -jnp.inf, [True, True, False, False])
    for filtered in (
        sampling.top_k(jnp.asarray(logits), 9),
        sampling.top_p(jnp.asarray(logits), 1.0),
        sampling.min_p(jnp.asarray(logits), 0.0),
    ):
        np.testing.assert_array_equal(filtered[0] > -jnp.inf, [True, True, True, False])


def test_repetition_penalty_lowers_every_token_seen():
    seen = RNG.random(LOGITS.shape) < 0.5
    penalised = np.asarray(sampling.repetition_penalty(jnp.asarray(LOGITS), jnp.asarray(seen), 1.5))
    np.testing.assert_array_equal(penalised[~seen], LOGITS[~seen])
    expected = np.where(LOGITS > 0, LOGITS / 1.5, LOGITS * 1.5)
    np.testing.assert_allclose(penalised[seen], expected[seen], rtol=1e-6)
    assert (penalised[seen] < LOGITS[seen]).all()


@pytest.mark.parametrize("value", [1e-45, 1e-38, 1e-3, 0.7, 1.0, 5.0])
def test_temperature_scales_the_log_odds(value):
    with np.errstate(over="ignore"):
        expected = (LOGITS - LOGITS.max(-1, keepdims=True)).astype(np.float64) / max(value, 1.1754944e-38)
        scaled = np.asarray(sampling.temperature(jnp.asarray(LOGITS), value))
        np.testing.assert_allclose(scaled, expected.astype(np.float32), rtol=1e-5)
    assert (scaled.max(-1) == 0).all()


def draws(settings, logits=LOGITS[0], seen=None):
    keys = jax.random.split(jax.random.key(3), DRAWS)
    rows = jnp.broadcast_to(logits, (DRAWS, len(logits)))
    seen = None if seen is None else jnp.broadcast_to(seen, rows.shape)
    return np.bincount(np.asarray(sampling.choose(keys, rows, settings, seen)), minlength=len(logits))


def assert_drawn_from(counts, probabilities):
    """Chi-square over the tokens expected at least 5 times, and the rest together."""
    assert (counts[probabilities == 0] == 0).all()
    expected = probabilities * DRAWS
    often = expected >= 5
    observed, expected = (
        np.append(counts[often], counts[~often].sum()),
        np.append(expected[often], expected[~often].sum()),
    )
    observed, expected = observed[expected > 0], expected[expected > 0]
    if len(expected) > 1:
        assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-3


@pytest.mark.parametrize("value", [0.5, 1.0, 2.0])
def test_draws_follow_the_softmax(value):
    assert_drawn_from(draws({"temperature": value}), softmax(LOGITS[0] / value))


def test_all_filters_together_act_in_order():
    sampler = Sampler(temperature=1.6, top_k=9, top_p=0.9, min_p=0.1, repetition_penalty=1.3)
    seen = np.arange(23) % 3 == 0
    logits = np.where(seen, np.where(LOGITS[0] > 0, LOGITS[0] / 1.3, LOGITS[0] * 1.3), LOGITS[0]) / 1.6
    logits = np.where(logits >= np.sort(logits)[-9], logits, -np.inf)
    logits = np.where(smallest_sets(logits[None], 0.9)[0], logits, -np.inf)
    probabilities = softmax(logits)
    probabilities = np.where(probabilities >= 0.1 * probabilities.max(), probabilities, 0)
    assert 1 < (probabilities > 0).sum() < 9
    assert_drawn_from(draws(sampler.settings(), seen=seen), probabilities / probabilities.sum())


def test_greedy_is_the_first_of_the_largest():
    logits = jnp.array([[0.0, 2.0, 2.0, 1.0]])
    assert sampling.choose(jax.random.split(jax.random.key(0), 1), logits, Sampler().settings()).tolist() == [1]
    assert Sampler(top_k=3, top_p=0.5, min_p=0.1).settings() == {}  # nothing to search for


def test_a_filter_at_its_idle_value_costs_nothing():
    assert Sampler(1.0, top_p=1.0, min_p=0.0, repetition_penalty=1.0).settings() == {"temperature": 1.0}


def test_another_number_compiles_nothing():
    compiled = jax.jit(sampling.choose)
    keys = jax.random.split(jax.random.key(0), len(LOGITS))
    for sampler in (Sampler(0.5, 3, 0.5), Sampler(2, 4, 0.9), Sampler(0.1, 100, 0.3)):
        compiled(keys, LOGITS, sampler.settings())
    assert compiled._cache_size() == 1


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("temperature", -1, "a number of at least 0"),
        ("temperature", float("nan"), "a number of at least 0"),
        ("temperature", float("inf"), "a number of at least 0"),
        ("top_k", 0, "a positive integer or None"),
        ("top_k", True, "a positive integer or None"),
        ("top_p", 0, "a number in (0, 1] or None"),
        ("top_p", 1.1, "a number in (0, 1] or None"),
        ("min_p", -0.1, "a number in [0, 1] or None"),
        ("repetition_penalty", 0, "a number above 0 or None"),
    ],
)
def test_a_number_out_of_range_is_refused(field, value, expected):
    with pytest.raises(ValueError, match=field) as error:
        Sampler(**{field: value})
    assert str(error.value) == f"{field}: found {value!r}, expected {expected}"
