"""What begins and ends the texts a model reads: [CLS] a [SEP] b [SEP], <s> a, a </s>."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxgpt.checks import nearest, require

Template = tuple[tuple[str | tuple[int, ...], int], ...]
"""Parts in order: "A" for the first text, "B" for the second, or added ids; and the segment that each belongs to."""

_FIRST, _SECOND = ("A", 0), ("B", 1)
_KINDS = ("TemplateProcessing", "BertProcessing", "RobertaProcessing", "ByteLevel", "Sequence")


@dataclass(frozen=True)
class Framing:
    """How the ids of a text, or of two, become what the model reads."""

    single: Template = (_FIRST,)
    pair: Template = (_FIRST, _SECOND)

    def ids(self, first: Sequence[int], second: Sequence[int] | None) -> list[int]:
        """The framed ids of one text (second None) or two."""
        return [token for part, _ in self._filled(first, second) for token in part]

    def segments(self, first: Sequence[int], second: Sequence[int] | None) -> list[int]:
        """The segment of each of those ids: BERT's 0 for the first text and 1 for the second."""
        return [segment for part, segment in self._filled(first, second) for _ in part]

    def _filled(self, first: Sequence[int], second: Sequence[int] | None) -> list[tuple[Sequence[int], int]]:
        texts = {"A": first, "B": second}
        template = self.single if second is None else self.pair
        return [(texts[part] if isinstance(part, str) else part, segment) for part, segment in template]


def read(post_processor: Mapping[str, Any] | None) -> Framing:
    """The framing that the post_processor of a tokenizer.json describes. Raises ValueError for one of no known type."""
    if post_processor is None:
        return Framing()
    match post_processor.get("type"):
        case "ByteLevel":  # moves character offsets only
            return Framing()
        case "TemplateProcessing":
            return Framing(*(_template(post_processor, name) for name in ("single", "pair")))
        case "BertProcessing":
            begin, end = ((post_processor[name][1],) for name in ("cls", "sep"))
            single = ((begin, 0), _FIRST, (end, 0))
            return Framing(single, (*single, _SECOND, (end, 1)))
        case "RobertaProcessing":
            begin, end = ((post_processor[name][1],) for name in ("cls", "sep"))
            single = ((begin, 0), _FIRST, (end, 0))
            return Framing(single, (*single, (end, 0), ("B", 0), (end, 0)))
        case "Sequence":
            found = [read(one) for one in post_processor["processors"]]
            adding = [one for one in found if one != Framing()] or [Framing()]
            require(len(adding) == 1, "post_processor", f"{len(adding)} that add tokens", "one at most")
            return adding[0]
        case kind:
            raise ValueError(f"post_processor: found {kind!r}, expected {nearest(str(kind), _KINDS)}")


def _template(processor: Mapping[str, Any], name: str) -> Template:
    """A TemplateProcessing's "single" or "pair"."""
    parts = []
    for piece in processor[name]:
        ((kind, what),) = piece.items()
        part = what["id"] if kind == "Sequence" else tuple(processor["special_tokens"][what["id"]]["ids"])
        parts.append((part, what["type_id"]))
    return tuple(parts)
