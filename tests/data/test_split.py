import numpy as np
import pytest

from jaxgpt.data.split import split, training_characters


def test_one_text_is_cut_where_nanogpt_cuts_it():
    assert training_characters(np.array([1_115_394]), 0.1).tolist() == [1_003_854]


def test_few_documents_each_give_their_end():
    assert training_characters(np.array([10, 1000, 20]), 0.1).tolist() == [9, 900, 18]


@pytest.mark.parametrize("fraction", [0.1, 0.03, 0.5])
def test_of_many_documents_whole_ones_are_held_out_evenly(fraction):
    lengths = np.random.default_rng(0).integers(1, 99, size=1000)
    training = training_characters(lengths, fraction)
    held = training == 0
    assert np.array_equal(training[~held], lengths[~held])
    assert held.sum() == round(1000 * fraction)
    gaps = np.diff(np.flatnonzero(held))
    assert gaps.max() - gaps.min() <= 1


def test_split_loses_nothing_and_cuts_at_the_character():
    rng = np.random.default_rng(0)
    texts = ["".join(chr(c) for c in rng.integers(97, 123, size=n)) for n in (1, 13, 40, 7, 22)]
    training = np.array([0, 13, 17, 3, 1])
    pieces = [(d, text[at : at + 5]) for d, text in enumerate(texts) for at in range(0, len(text), 5)]
    parts = list(split(pieces, training))
    assert all(text for _, _, text in parts)
    for document, text in enumerate(texts):
        train, validation = (
            "".join(t for part, d, t in parts if d == document and part == name) for name in ("train", "validation")
        )
        assert (train, validation) == (text[: training[document]], text[training[document] :])
