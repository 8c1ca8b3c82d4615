"""A bar for what takes long."""

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.progress import track


def shown(steps: Sequence[Any], name: str, show: bool) -> Iterable[Any]:
    """The steps, and if `show`, on a terminal, a bar of how many are done."""
    console = Console(stderr=True)
    return track(steps, name, console=console, transient=True, disable=not (show and console.is_terminal))
