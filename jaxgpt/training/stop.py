"""SIGTERM as a question that the loop asks between two steps."""

import contextlib
import itertools
import signal
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils


@contextlib.contextmanager
def sigterm() -> Iterator[Callable[[], bool]]:
    """Gives the question whether the run was asked to end, to be asked after every dispatch.

    Of several processes each must ask as often as the others. A signal to any of them then ends all after the same
    dispatch: JAX, which holds the signal there, tells the others and picks a number of questions that is ahead of all.
    """
    if jax.process_count() > 1:
        asked = itertools.count(1)
        yield lambda: multihost_utils.reached_preemption_sync_point(next(asked))
        return
    signals = []
    old = signal.signal(signal.SIGTERM, lambda *_: signals.append(1))
    try:
        yield lambda: bool(signals)
    finally:
        signal.signal(signal.SIGTERM, old)
