import numpy as np

from jaxgpt.data.sequences import Sequences

TOKENS = np.array([4, 5, 9, 9, 6, 7, 8, 9], np.uint16)  # 9 ends: 4 5, nothing, 6 7 8


def test_a_sequence_has_its_end_and_its_length_counts_it():
    sequences = Sequences.split(TOKENS, 9)
    assert [sequences[i].tolist() for i in range(len(sequences))] == [[4, 5, 9], [9], [6, 7, 8, 9]]
    assert sequences.lengths.tolist() == [3, 1, 4]
    assert np.shares_memory(sequences[2], TOKENS)


def test_rows_are_filled_up_with_the_end():
    rows, inside = Sequences.split(TOKENS, 9).rows(np.array([[2, 1], [0, 2]]), 5)
    assert rows.tolist() == [[[6, 7, 8, 9, 9], [9] * 5], [[4, 5, 9, 9, 9], [6, 7, 8, 9, 9]]]
    assert inside.sum(axis=-1).tolist() == [[4, 1], [3, 4]]
    assert inside[1, 0].tolist() == [True] * 3 + [False] * 2
    assert rows.dtype == np.int32
