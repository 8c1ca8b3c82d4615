import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgpt.data.windows import n_windows, windows


@given(n=st.integers(2, 60), context_length=st.integers(1, 20), stride=st.integers(1, 25))
def test_windows_are_those_of_the_naive_loop(n, context_length, stride):
    tokens = np.random.default_rng(n).integers(0, 99, size=n).astype(np.uint16)
    expected = []
    start = 0
    while start + context_length + 1 <= n:
        expected.append((tokens[start : start + context_length], tokens[start + 1 : start + 1 + context_length]))
        start += stride
    assert n_windows(n, context_length, stride) == len(expected)
    if expected:
        inputs, targets = windows(tokens, context_length, stride)
        np.testing.assert_array_equal(inputs, [pair[0] for pair in expected])
        np.testing.assert_array_equal(targets, [pair[1] for pair in expected])


def test_stride_context_length_tiles_the_text():
    tokens = np.arange(41)
    inputs, targets = windows(tokens, 8, 8)
    np.testing.assert_array_equal(inputs.ravel(), tokens[:40])
    np.testing.assert_array_equal(targets.ravel(), tokens[1:])


def test_nothing_is_copied():
    tokens = np.arange(100)
    inputs, targets = windows(tokens, 10, 3)
    assert np.shares_memory(inputs, tokens)
    assert np.shares_memory(targets, tokens)
    with pytest.raises(ValueError, match="read-only"):
        inputs[0, 0] = 1


def test_too_short_a_text_is_refused_with_numbers():
    assert n_windows(64, 64, 1) == 0
    assert len(windows(np.arange(65), 64, 1)[0]) == 1
    with pytest.raises(ValueError, match=r"^data: found 40 tokens, expected at least context_length \+ 1 = 65$"):
        windows(np.arange(40), 64, 64)
