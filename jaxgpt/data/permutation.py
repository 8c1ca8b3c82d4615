"""A shuffle that is never stored: where one position goes, in the time and memory of that position."""

import math

import numpy as np
from jaxtyping import Int64, UInt64


def shuffled(positions: Int64[np.ndarray, "n"], size: int, seed: tuple[int, ...]) -> Int64[np.ndarray, "n"]:
    """What a pseudo-random permutation of range(size), chosen by seed, holds at positions (each in range(size)).

    A Feistel network permutes range(rows * columns), both about sqrt(size); the fewer than rows values that are not in
    range(size) go through it again until they are.
    Source: Luby & Rackoff 1988; any rows and columns, and walking inside: Black & Rogaway 2002, methods 3 and 2.
    """
    rows = math.isqrt(size - 1) + 1
    columns = -(-size // rows)
    keys = np.random.default_rng(seed).integers(1 << 63, size=6, dtype=np.uint64)
    values = positions.astype(np.uint64)
    outside = np.arange(len(values))
    while len(outside):
        values[outside] = _feistel(values[outside], rows, columns, keys)
        outside = outside[values[outside] >= size]
    return values.astype(np.int64)


def reshuffled(positions: Int64[np.ndarray, "n"], size: int, seed: tuple[int, ...]) -> Int64[np.ndarray, "n"]:
    """What an endless sequence holds at positions: all of range(size) once an epoch, each time in another order."""
    epoch, position = np.divmod(positions, size)
    values = np.empty_like(position)
    for e in np.unique(epoch):
        values[epoch == e] = shuffled(position[epoch == e], size, (*seed, int(e)))
    return values


def _feistel(
    values: UInt64[np.ndarray, "n"], rows: int, columns: int, keys: UInt64[np.ndarray, "rounds"]
) -> UInt64[np.ndarray, "n"]:
    row, column = np.divmod(values, np.uint64(columns))
    for key in keys:
        row, column = column, (row + _mix(column ^ key)) % np.uint64(rows)
        rows, columns = columns, rows
    return row * np.uint64(columns) + column


def _mix(x: UInt64[np.ndarray, "n"]) -> UInt64[np.ndarray, "n"]:
    """32 bits that each depend on all of x. Source: degski64, without its last step."""
    x = (x ^ (x >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)  # wraps
    x = (x ^ (x >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    return x >> np.uint64(32)
