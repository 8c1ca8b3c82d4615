"""The bar of what takes long."""

from functools import partial

import pytest
from rich.console import Console

from jaxgpt import bars


@pytest.mark.parametrize(("terminal", "show"), [(True, True), (True, False), (False, True)])
def test_a_bar_is_shown_if_asked_for_and_on_a_terminal_only(monkeypatch, capsys, terminal, show):
    monkeypatch.setattr(bars, "Console", partial(Console, force_terminal=terminal, width=80))
    assert list(bars.shown(["a", "b", "c"], "words", show)) == ["a", "b", "c"]
    told = capsys.readouterr()
    assert told.out == ""
    assert ("words" in told.err) == (terminal and show)
