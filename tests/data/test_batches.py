import numpy as np
import pytest

from jaxgpt.data import EvalBatches, TrainBatches

TOKENS = np.arange(1000, dtype=np.uint16)  # token = position, so that a window says where it began
T, B = 7, 6


def train(sampling, seed=0, tokens=TOKENS, **options):
    return TrainBatches(tokens, T, B, seed, sampling=sampling, **options)


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype
        np.testing.assert_array_equal(a[name], b[name])


def starts(batches, steps):
    return np.concatenate([batches[step]["inputs"][:, 0] for step in range(steps)])


BOTH = pytest.mark.parametrize("sampling", ["random", "epochs"])


@BOTH
def test_a_batch_is_windows_and_their_next_tokens(sampling):
    batch = train(sampling)[3]
    assert batch["inputs"].shape == batch["targets"].shape == (B, T)
    assert batch["inputs"].dtype == batch["targets"].dtype == np.int32
    np.testing.assert_array_equal(batch["inputs"], batch["inputs"][:, :1] + np.arange(T))
    np.testing.assert_array_equal(batch["targets"], batch["inputs"] + 1)


@BOTH
def test_a_batch_depends_on_step_and_seed_alone(sampling):
    """Step 57 alone is step 57 of the sequence: what resuming needs."""
    sequence = train(sampling)
    run = [sequence[step] for step in range(60)]
    assert_same(train(sampling)[57], run[57])
    assert not np.array_equal(run[57]["inputs"], run[56]["inputs"])
    assert not np.array_equal(run[57]["inputs"], train(sampling, seed=1)[57]["inputs"])


@BOTH
def test_a_block_is_its_batches_stacked(sampling):
    batches = train(sampling)
    block = batches.block(20, 9)  # crosses the epoch's end: 141 windows
    for i in range(9):
        assert_same({name: rows[i] for name, rows in block.items()}, batches[20 + i])


@pytest.mark.parametrize("stride", [None, 1, 5])
def test_every_window_comes_once_an_epoch(stride):
    batches = train("epochs", stride=stride)
    windows = np.arange(0, 1000 - T, stride or T)  # 142 for stride 7: not a multiple of B, epochs end inside a batch
    found = starts(batches, 3 * len(windows) // B + 1)[: 3 * len(windows)].reshape(3, -1)
    for epoch in found:
        np.testing.assert_array_equal(np.sort(epoch), windows)
    assert not np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], windows)


def test_a_batch_larger_than_an_epoch_holds_several():
    batch = TrainBatches(np.arange(3 * T + 1), T, 12, 0, sampling="epochs")[5]
    assert np.bincount(batch["inputs"][:, 0] // T).tolist() == [4, 4, 4]


def test_random_windows_start_anywhere():
    found = starts(train("random", tokens=TOKENS[:30]), 200)
    assert set(found.tolist()) == set(range(30 - T))
    assert set(starts(train("random", tokens=TOKENS[:30], stride=5), 200).tolist()) == {0, 5, 10, 15, 20}


def test_random_starts_are_numpys():
    """The draw is documented: nanoGPT's randint(len(data) - block_size), from (seed, step)."""
    expected = np.random.default_rng((5, 9)).integers(len(TOKENS) - T, size=B)
    np.testing.assert_array_equal(train("random", seed=5)[9]["inputs"][:, 0], expected)


def test_every_token_of_a_window_is_read():
    batches = train("random")
    assert batches.tokens(3, 8) == sum(batches[step]["inputs"].size for step in range(3, 8)) == 5 * B * T
    assert batches.tokens(3, 3) == 0
    assert batches.run_length is None


@pytest.mark.parametrize("make", [lambda t: TrainBatches(t, 64, 2, 0), lambda t: EvalBatches(t, 64, 2, 3)])
def test_too_short_a_text_is_refused(make):
    make(np.arange(65))
    with pytest.raises(ValueError, match=r"found 64 tokens, expected at least context_length \+ 1 = 65"):
        make(np.arange(64))


def test_evaluation_is_evenly_spread_and_the_same_each_time():
    batches = EvalBatches(TOKENS, T, B, 4)
    assert len(batches) == 4
    found = starts(batches, 4)
    assert set(np.diff(found).tolist()) == {(len(TOKENS) - T) // 24, (len(TOKENS) - T) // 24 + 1}
    assert found[0] == 0
    assert found[-1] > len(TOKENS) - 8 * T
    again = EvalBatches(TOKENS, T, B, 4)
    for step in range(4):
        assert_same(batches[step], again[step])


def test_of_a_short_text_windows_overlap():
    batches = EvalBatches(TOKENS[: T + 9], T, B, 50)
    found = starts(batches, 50)
    assert len(found) == 50 * B
    counts = np.bincount(found)
    assert len(counts) == 9
    assert counts.max() - counts.min() <= 1


def test_evaluation_ends():
    batches = EvalBatches(TOKENS, T, B, 4)
    assert_same({k: v[1] for k, v in batches.block(2, 2).items()}, batches[3])
    for step, k in [(4, 1), (3, 2), (-1, 1)]:
        with pytest.raises(IndexError, match="expected 0 to 3"):
            batches.block(step, k)
