import numpy as np
import pytest

from jaxgpt.data.permutation import reshuffled, shuffled


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 17, 100, 1024, 1025, 65537])
def test_every_value_comes_once(size):
    values = shuffled(np.arange(size), size, (0, 0))
    np.testing.assert_array_equal(np.sort(values), np.arange(size))


def test_positions_are_independent_of_each_other():
    whole = shuffled(np.arange(1000), 1000, (3, 5))
    positions = np.array([999, 0, 417])
    np.testing.assert_array_equal(shuffled(positions, 1000, (3, 5)), whole[positions])


def test_seeds_give_unrelated_orders():
    """Two random orders agree in one place on average; 20 would happen once in 10**18."""
    orders = [shuffled(np.arange(1000), 1000, seed) for seed in ((0, 0), (0, 1), (1, 0))]
    identity = np.arange(1000)
    for a, b in [(orders[0], orders[1]), (orders[0], orders[2]), (orders[1], orders[2]), (orders[0], identity)]:
        assert (a == b).sum() < 20


def test_a_billion_positions_cost_nothing():
    values = shuffled(np.arange(10**9 - 4, 10**9), 10**9, (0, 0))
    assert len(set(values.tolist())) == 4
    assert values.min() >= 0
    assert values.max() < 10**9


@pytest.mark.parametrize("size", [10, 1000])
def test_a_position_goes_anywhere(size):
    first = np.array([shuffled(np.array([0]), size, (0, seed))[0] for seed in range(1000)])
    counts = np.bincount(first * 10 // size, minlength=10)
    assert ((counts - 100) ** 2 / 100).sum() < 40  # chi-squared, 9 degrees of freedom: p = 1e-5


def test_neighbours_are_unrelated():
    order = shuffled(np.arange(100_000), 100_000, (1,)) / 100_000
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(order, np.arange(100_000))[0, 1]) < 0.02


def test_an_endless_sequence_has_every_value_once_an_epoch():
    epochs = reshuffled(np.arange(30), 10, (7,)).reshape(3, 10)
    for e, epoch in enumerate(epochs):
        np.testing.assert_array_equal(epoch, shuffled(np.arange(10), 10, (7, e)))
    positions = np.array([29, 3, 12, 3])
    np.testing.assert_array_equal(reshuffled(positions, 10, (7,)), epochs.ravel()[positions])
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 3
