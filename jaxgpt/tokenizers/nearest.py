"""What to say about a name that is not one of those known."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, known: Iterable[str]) -> str:
    """known, listed for an error message, and the one most like name if any is."""
    known = list(known)
    close = get_close_matches(name, known, n=1, cutoff=0.4)
    return f"one of {', '.join(known)}" + (f" (nearest: {close[0]})" if close else "")
