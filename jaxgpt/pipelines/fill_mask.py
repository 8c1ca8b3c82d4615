"""The task "fill-mask": the likeliest tokens of blanks."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxgpt.checks import check_names, check_types, require
from jaxgpt.filling import Candidate, fill_mask
from jaxgpt.model import Model
from jaxgpt.rows import mask_name
from jaxgpt.tokenizers import Tokenizer


@dataclass(frozen=True)
class Options:
    """What a call may say, by transformers' names."""

    top_k: int = 5
    """Tokens to list for each blank."""
    targets: str | list | tuple[str, ...] | None = None
    """List these tokens only; of a text of several tokens, its first. Scores stay shares of all tokens."""

    def __post_init__(self):
        check_types(self)


class FillMask:
    """Fills in blanks, as transformers' pipeline of that task.

    options: fields of `Options`, for every call.
    Raises ValueError for a tokenizer without a mask token and for options that can't be used.
    """

    def __init__(self, model: Model, **options: Any):
        self.model = model
        self._defaults = options
        self._mask = mask_name(model.tokenizer)
        self._options({})

    def __call__(self, inputs: str | Sequence[str], **options: Any) -> list:
        """[{"score", "token", "token_str", "sequence"}, ...], the likeliest first; of a list of texts, a list of that.

        Of a text with several blanks, a list of that for each. sequence: the text without special tokens; with several
        blanks, all that the model read, the other blanks left. As in transformers a list of one text gives what the
        text does.
        Raises ValueError, before any work, as `fill_mask`.
        """
        chosen = self._options(options)
        texts = [inputs] if isinstance(inputs, str) else list(inputs)
        among = None if chosen.targets is None else _ids(self.model.tokenizer, chosen.targets)
        top_k = chosen.top_k if among is None else min(chosen.top_k, len(among))
        found = fill_mask(self.model, texts, top_k=top_k, among=among)
        results = [self._result(text, blanks) for text, blanks in zip(texts, found, strict=True)]
        return results[0] if len(results) == 1 else results

    def _options(self, options: dict[str, Any]) -> Options:
        given = self._defaults | options
        check_names(given, Options)
        return Options(**given)

    def _result(self, text: str, blanks: list[list[Candidate]]) -> list:
        tokenizer = self.model.tokenizer
        row = tokenizer.frame(tokenizer.encode(text, allowed_special={self._mask}))
        places = [i for i, token in enumerate(row) if token == tokenizer.mask]
        unsaid = frozenset(tokenizer.special_tokens.values()) if len(places) == 1 else frozenset()

        def entry(place: int, one: Candidate) -> dict[str, Any]:
            filled = [*row[:place], one.token, *row[place + 1 :]]
            sequence = tokenizer.decode(token for token in filled if token not in unsaid)
            return {"score": one.probability, "token": one.token, "token_str": one.text, "sequence": sequence}

        result = [[entry(place, one) for one in blank] for place, blank in zip(places, blanks, strict=True)]
        return result[0] if len(result) == 1 else result


def _ids(tokenizer: Tokenizer, targets: str | Sequence[str]) -> list[int]:
    """The token of each target. Warns of one that is several tokens; raises ValueError where none is any."""
    found = []
    for target in [targets] if isinstance(targets, str) else targets:
        ids = tokenizer.encode(target)
        if len(ids) != 1:
            instead = f"its first, {tokenizer.decode(ids[:1])!r}, is taken" if ids else "it is left out"
            warnings.warn(f"targets: found {target!r}, of {len(ids)} tokens, expected one: {instead}", stacklevel=4)
        found += ids[:1]
    require(len(found) > 0, "targets", targets, "at least one token")
    return sorted(set(found))
