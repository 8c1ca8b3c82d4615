"""What configs and names are checked with, and the words of what is refused: "field: found ..., expected ..."."""

from collections.abc import Iterable
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_WORDS = {
    int: "an integer",
    float: "a number",
    bool: "True or False",
    str: "a string",
    list: "a list",
    dict: "an object",
    NoneType: "None",
}
_UNIONS = (Union, UnionType)  # Literal[...] | None is of the old kind


def require(condition: bool, field: str, found: Any, expected: str) -> None:
    """Raise the ValueError of every config, "field: found ..., expected ...", unless the condition holds."""
    if not condition:
        raise ValueError(f"{field}: found {found!r}, expected {expected}")


def check_types(config: Any, section: str = "") -> None:
    """Raise ValueError unless each field of a dataclass holds what its annotation says: Python itself never looks.

    Annotations: int, float (an integer is one too), bool (no integer), str, Literal, a class, tuple[one of them, ...],
    and any of them | None.
    section: what the fields' names begin with, "model" say.
    """
    for name, kind in get_type_hints(type(config)).items():
        value, field = getattr(config, name), f"{section}.{name}".removeprefix(".")
        require(holds(value, kind), field, value, words(kind))


def check_names(names: Iterable[str], kind: type, section: str = "") -> None:
    """Raise ValueError, with the nearest name, for one that is not a field of the dataclass `kind`."""
    known = list(get_type_hints(kind))
    for name in names:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            field = f"{section}.{name}".removeprefix(".")
            raise ValueError(f"{field}: found an unknown field, expected {close[0] if close else nearest(name, known)}")


def nearest(name: str, known: Iterable[str]) -> str:
    """known, listed for an error message, and the one most like name if any is."""
    known = list(known)
    close = get_close_matches(name, known, n=1, cutoff=0.4)
    return f"one of {', '.join(known)}" + (f" (nearest: {close[0]})" if close else "")


def holds(value: Any, kind: Any) -> bool:
    """Whether the value is what the annotation says, one of `check_types`."""
    if get_origin(kind) in _UNIONS:
        return any(holds(value, one) for one in get_args(kind))
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(holds(one, get_args(kind)[0]) for one in value)
    return isinstance(value, (int, float) if kind is float else kind) and (kind is bool or not isinstance(value, bool))


def words(kind: Any) -> str:
    """The annotation, as the error for a value that does not hold it has it."""
    if get_origin(kind) in _UNIONS:
        return " or ".join(map(words, get_args(kind)))
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(get_args(kind))
    if get_origin(kind) is tuple:
        return f"a tuple, each {words(get_args(kind)[0])}"
    return _WORDS.get(kind) or f"{kind.__name__}(...)"
