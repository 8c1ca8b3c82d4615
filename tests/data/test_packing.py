"""Rows of conversations: what is learnt where, and that those which share a row don't see each other."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import SCHEMES, draw, loss

from jaxgpt import gpt
from jaxgpt.data import DataConfig, packing
from jaxgpt.data.packing import Answers, pack

RNG = np.random.default_rng(0)
LENGTHS = [3, 9, 2, 6, 7, 12, 5]
IDS = [RNG.integers(1, 23, n).tolist() for n in LENGTHS]
LEARNT = [[False] * (n // 2) + [True] * (n - n // 2) for n in LENGTHS]
ALONE = [[i] for i in range(len(IDS))]


@given(st.lists(st.integers(1, 20), max_size=40))
def test_packs_hold_each_item_once_within_the_capacity(lengths):
    packs = pack(lengths, 20)
    assert sorted(i for row in packs for i in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[i] for i in row) <= 20 for row in packs)
    # No two rows would fit into one.
    room = sorted(sum(lengths[i] for i in row) for row in packs)
    assert len(room) < 2 or room[0] + room[1] > 20


def test_an_item_that_fits_into_no_row_has_its_own():
    assert sorted(pack([3, 21, 4, 13, 30], 20)) == [[1], [3, 2, 0], [4]]


@pytest.mark.parametrize(
    ("settings", "packs", "shapes"),
    [
        ({}, [[1, 4], [3, 2], [0]], 1),
        ({"pack_length": 100}, [[1, 4], [3, 2], [0]], 1),
        ({"pack_length": 11}, [[1, 0], [3, 2], [4]], 1),
        ({"pack_length": 8}, [[1], [3], [2, 4], [0]], 3),
        ({"pack_length": 9}, [[1], [3], [2, 4, 0]], 1),
        ({"pack": False}, ALONE[:5], 3),
    ],
)
def test_rows_are_shared_as_the_config_says(settings, packs, shapes):
    config = DataConfig(buckets=3, **settings)
    lengths = [2, 9, 4, 7, 3]
    found = packing.rows(lengths, config, 12)
    assert sorted(sorted(row) for row in found) == sorted(sorted(row) for row in packs)
    ids = [[1] * (n + 1) for n in lengths]
    learnt = [[True] * (n + 1) for n in lengths]
    assert packing.shapes(Answers(ids, learnt, found), config) == shapes


def test_a_row_is_its_conversations():
    packs = pack([n - 1 for n in LENGTHS], 18)
    data = Answers(IDS, LEARNT, packs)
    block = data.gather(np.array([[*range(len(packs)), -1]]), (18,))
    for row, members in enumerate(packs):
        at = 0
        for number, i in enumerate(members, 1):
            span = slice(at, at + LENGTHS[i] - 1)
            assert block["inputs"][0, row, span].tolist() == IDS[i][:-1]
            assert block["targets"][0, row, span].tolist() == IDS[i][1:]
            assert block["weights"][0, row, span].tolist() == LEARNT[i][1:]
            assert (block["segments"][0, row, span] == number).all()
            at = span.stop
        assert data.lengths[row].tolist() == [at]
        assert not block["weights"][0, row, at:].any()
        assert not block["segments"][0, row, at:].any()
    assert not block["weights"][0, -1].any()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_packed_and_unpacked_rows_have_the_same_loss(scheme):
    cfg = replace(SCHEMES[scheme], window=4) if scheme == "rotary" else SCHEMES[scheme]
    params = draw(gpt.declare(cfg))
    sums = []
    for packs in (ALONE, pack([n - 1 for n in LENGTHS], 19)):
        data = Answers(IDS, LEARNT, packs)
        block = data.gather(np.arange(len(packs))[None], (19,))
        sums.append(loss(params, {name: rows[0] for name, rows in block.items()}, cfg)[1])
    assert len(data.packs) < len(ALONE)
    assert float(sums[0]["weight"]) == float(sums[1]["weight"]) == sum(sum(one[1:]) for one in LEARNT)
    np.testing.assert_allclose(sums[0]["nats"], sums[1]["nats"], rtol=1e-6)


def test_a_row_of_nothing_has_no_loss():
    cfg = SCHEMES["rotary"]
    block = Answers(IDS, LEARNT, ALONE).gather(np.array([[2, -1]]), (19,))
    mean, sums = loss(draw(gpt.declare(cfg)), {name: rows[0] for name, rows in block.items()}, cfg)
    assert np.isfinite(float(mean))
    assert float(sums["weight"]) == sum(LEARNT[2][1:])
