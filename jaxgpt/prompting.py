"""Few-shot prompts: labelled examples as text, then a query without its label.

A template writes an example: "Review: {text}\\nSentiment: {label}". Its last field is the label; what stands before it
is the prompt of a query. Source: Brown et al. 2020, section 2.
"""

import string
from collections.abc import Mapping, Sequence

import numpy as np

from jaxgpt.checks import require

LABEL = "label"  # the field that a query lacks
Example = Mapping[str, str]


def few_shot(template: str, query: Example, shots: Sequence[Example] = (), *, separator: str = "\n\n") -> str:
    """The shots and, up to its label, the query, each written by the template, with the separator in between.

    Raises ValueError for a template whose last field is not the label, and where an example lacks a field of it.
    """
    fields = _fields(template)
    label = [field for _, field in fields].index(LABEL)
    texts = [_write(fields, shot, f"shot {i}") for i, shot in enumerate(shots)]
    return separator.join([*texts, _write(fields[:label], query, "query") + fields[label][0]])


def template_fields(template: str) -> list[str]:
    """The fields that an example must have, the label last. Raises ValueError as `few_shot` does."""
    return [field for _, field in _fields(template) if field is not None]


def choose_shots(examples: Sequence[Example], k: int, *, seed: int = 0) -> list[Example]:
    """k of the examples, drawn by the seed: equally many of each label, or one more of some, in a drawn order.

    Raises ValueError where a label has too few, or an example has none.
    """
    require(k >= 0, "k", k, "an integer of at least 0")
    by_label: dict[str, list[Example]] = {}
    for i, example in enumerate(examples):
        by_label.setdefault(_field(example, LABEL, f"example {i}"), []).append(example)
    require(bool(by_label) or k == 0, "examples", "none", f"{k} to choose")
    rng, labels, chosen = np.random.default_rng(seed), sorted(by_label), []
    for place, i in enumerate(rng.permutation(len(labels))):
        known, wanted = by_label[labels[i]], k // len(labels) + (place < k % len(labels))
        expected = f"at least {wanted}, for {k} shots of {len(labels)} labels"
        require(len(known) >= wanted, f"examples of {labels[i]!r}", len(known), expected)
        chosen += [known[j] for j in rng.choice(len(known), wanted, replace=False)]
    return [chosen[i] for i in rng.permutation(len(chosen))]


def _fields(template: str) -> list[tuple[str, str | None]]:
    """(text, the field after it), in str.format's syntax, but for conversions and attributes."""
    fields = [(text, field) for text, field, *_ in string.Formatter().parse(template)]
    for _, field, form, conversion in string.Formatter().parse(template):
        plain = field is None or (field.isidentifier() and not form and not conversion)
        require(plain, "template", template, "plain fields in it, such as {text}")
    names = [field for _, field in fields if field is not None]
    require(
        names[-1:] == [LABEL] and names.count(LABEL) == 1, "template", template, f"{{{LABEL}}} once, its last field"
    )
    return fields


def _write(fields: list[tuple[str, str | None]], example: Example, name: str) -> str:
    return "".join(text if field is None else text + _field(example, field, name) for text, field in fields)


def _field(example: Example, field: str, name: str) -> str:
    require(isinstance(example.get(field), str), f"{name}: {field}", example.get(field), "a string")
    return example[field]
