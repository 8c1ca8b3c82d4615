"""Sums over classes, beside scikit-learn's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.losses import confusion, cross_entropy

RNG = np.random.default_rng(0)
LOGITS = jnp.array(RNG.normal(size=(50, 4)), jnp.float32)
LABELS = jnp.array(RNG.integers(0, 3, 50))  # none is of the last class
WEIGHTS = jnp.array(RNG.uniform(0, 2, 50) * (RNG.random(50) < 0.8), jnp.float32)


def test_confusion_is_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    found = jax.jit(confusion)(LOGITS, LABELS, WEIGHTS)
    taken = np.asarray(LOGITS).argmax(-1)
    wanted = metrics.confusion_matrix(LABELS, taken, labels=range(4), sample_weight=WEIGHTS)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert not found[3].any()
    assert found[:, 3].any()


def test_confusion_adds_up_to_the_weights_and_its_diagonal_to_those_that_are_right():
    _, sums = cross_entropy(LOGITS, LABELS, WEIGHTS, 0.0)
    found = confusion(LOGITS, LABELS, WEIGHTS)
    assert float(found.sum()) == pytest.approx(float(sums["weight"]), rel=1e-6)
    assert float(jnp.trace(found)) == pytest.approx(float(sums["correct"]), rel=1e-6)
