"""A shuffle that is never stored: where one position goes, in the time and memory of that position."""

import numpy as np
from jaxtyping import Int64, UInt64


def shuffled(positions: Int64[np.ndarray, "n"], size: int, seed: tuple[int, ...]) -> Int64[np.ndarray, "n"]:
    """What a pseudo-random permutation of range(size), chosen by seed, holds at positions (each in range(size)).

    A Feistel network permutes the smallest power of 4 that is >= size; values outside range(size) go through it again
    until they land inside, four times on average at most.
    Source: Luby & Rackoff 1988; cycle walking: Black & Rogaway 2002, section 3.
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    keys = np.random.default_rng(seed).integers(1 << 63, size=6, dtype=np.uint64)
    values = positions.astype(np.uint64)
    outside = np.arange(len(values))
    while len(outside):
        values[outside] = _feistel(values[outside], np.uint64(half), keys)
        outside = outside[values[outside] >= size]
    return values.astype(np.int64)


def _feistel(
    values: UInt64[np.ndarray, "n"], half: np.uint64, keys: UInt64[np.ndarray, "rounds"]
) -> UInt64[np.ndarray, "n"]:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = values >> half, values & mask
    for key in keys:
        mixed = (right ^ key) * np.uint64(0x9E3779B97F4A7C15)  # wraps: Fibonacci hashing, its high bits the good ones
        mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
        left, right = right, left ^ ((mixed >> np.uint64(32)) & mask)
    return (left << half) | right
