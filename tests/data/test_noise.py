import numpy as np

from jaxgpt.data.noise import splitmix64, uniform


def test_it_is_splitmix64():
    """The reference's first numbers from 1234567, as Rosetta Code lists them."""
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert splitmix64(np.array([1234567], np.uint64), 4)[0].tolist() == expected


def test_a_row_depends_on_its_own_keys_and_the_seed_alone():
    keys = np.array([[3, 7], [7, 3], [3, 8], [4, 7]])
    rows = uniform((1, 2), keys, 50)
    assert rows.shape == (4, 50)
    np.testing.assert_array_equal(uniform((1, 2), keys[2:3], 50)[0], rows[2])
    np.testing.assert_array_equal(uniform((1, 2), keys, 9), rows[:, :9])
    every = np.concatenate([rows, uniform((1, 3), keys, 50)])
    assert len(np.unique(every)) == every.size


def test_numbers_are_uniform_and_unrelated():
    rows = uniform((0,), np.stack(np.divmod(np.arange(10_000), 100), axis=1), 20)
    assert rows.min() >= 0
    assert rows.max() < 1
    counts = np.bincount((rows * 100).astype(int).ravel(), minlength=100)
    assert ((counts - 2000) ** 2 / 2000).sum() < 165  # chi-squared, 99 degrees of freedom: p = 4e-5
    within, between = np.corrcoef(rows[:, 0], rows[:, 1])[0, 1], np.corrcoef(rows[:-1, 0], rows[1:, 0])[0, 1]
    assert max(abs(within), abs(between)) < 0.04  # 4 standard deviations
