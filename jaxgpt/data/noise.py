"""Random numbers that belong to a place: the same there, whatever else is drawn beside or before."""

import numpy as np
from jaxtyping import Float64, Int64, UInt64

_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def uniform(seed: tuple[int, ...], keys: Int64[np.ndarray, "rows keys"], n: int) -> Float64[np.ndarray, "rows {n}"]:
    """n numbers in [0, 1) for each row, which depend on seed and on the row's own keys alone."""
    state = np.full(len(keys), np.random.default_rng(seed).integers(1 << 63), np.uint64)
    for key in keys.T.astype(np.uint64):
        state = _mix(state + key * _GAMMA)
    return (splitmix64(state, n) >> np.uint64(11)) * 2.0**-53


def splitmix64(states: UInt64[np.ndarray, "rows"], n: int) -> UInt64[np.ndarray, "rows {n}"]:
    """The first n numbers of the generator that each of states begins.

    Source: Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators"; constants: Stafford's mix 13.
    """
    return _mix(states[:, None] + _GAMMA * np.arange(1, n + 1, dtype=np.uint64))


def _mix(x: UInt64[np.ndarray, "..."]) -> UInt64[np.ndarray, "..."]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)  # wraps
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
