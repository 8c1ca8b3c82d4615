"""Which cases of a grid every run takes: `pytest` a few, `pytest -m "not slow"` all."""

from collections.abc import Iterable

import pytest


def few(cases: Iterable, n: int = 1) -> list:
    """The first n of the cases of a `parametrize` as they are, the others marked `thorough`."""
    rows = [case if isinstance(case, tuple) else (case,) for case in cases]
    return [pytest.param(*row, marks=[pytest.mark.thorough] * (place >= n)) for place, row in enumerate(rows)]
