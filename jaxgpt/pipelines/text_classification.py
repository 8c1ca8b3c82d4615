"""The task "text-classification", or "sentiment-analysis": the classes of texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from jaxgpt.checks import check_names, check_types, require
from jaxgpt.classification import Scores, classify_texts
from jaxgpt.model import Model

Input = str | Mapping[str, str]


@dataclass(frozen=True)
class Options:
    """What a call may say, by transformers' names."""

    top_k: int | None = 1
    """Classes to list, the likeliest first (None: all)."""
    function_to_apply: str | None = None
    """What becomes of the logits: softmax, sigmoid or none (None: softmax, but sigmoid where there is one class)."""
    truncation: bool = False
    """Cut texts to max_length; otherwise one that is too long is refused."""
    max_length: int | None = None
    """In tokens (None: the model's context_length)."""
    batch_size: int = 64
    """Texts at once."""

    def __post_init__(self):
        check_types(self)
        require(self.top_k is None or self.top_k >= 1, "top_k", self.top_k, "a positive integer or None")
        name = self.function_to_apply
        known = name is None or name.lower() in get_args(Scores)
        require(known, "function_to_apply", name, f"one of {', '.join(get_args(Scores))}")
        require(self.truncation or self.max_length is None, "max_length", self.max_length, "None without truncation")


class TextClassification:
    """Tells the classes of texts, as transformers' pipeline of that task.

    options: fields of `Options`, for every call.
    Raises ValueError for a model that classifies no texts and for options that can't be used.
    """

    def __init__(self, model: Model, **options: Any):
        require(model.config.head == "sequence", "model.head", model.config.head, "sequence, to classify texts")
        self.model = model
        self._defaults = options
        self._labels = model.settings.labels or [f"LABEL_{i}" for i in range(model.config.n_classes)]
        self._options({})

    def __call__(self, inputs: Input | Sequence[Input], **options: Any) -> Any:
        """[{"label": ..., "score": ...}] for a text, and so for a list of texts: one each.

        inputs: a text, a pair {"text": ..., "text_pair": ...}, or a list of either. A pair alone gives no list but
        its {"label", "score"}. With top_k given, a list of classes for each.
        Raises ValueError, before any work, for inputs and options that can't be used.
        """
        chosen = self._options(options)
        alone = isinstance(inputs, str | Mapping)
        # As transformers has it: where only the pipeline was told top_k, a single text is a list of one.
        nested = isinstance(inputs, str) and "top_k" not in options
        texts = [_text(one) for one in ([inputs] if alone else inputs)]
        length = chosen.max_length or self.model.config.context_length
        scores = classify_texts(
            self.model,
            texts,
            scores=None if chosen.function_to_apply is None else chosen.function_to_apply.lower(),
            max_tokens=length if chosen.truncation else None,
            batch_size=chosen.batch_size,
        )
        results = [self._result(row, chosen.top_k) for row in scores]
        if "top_k" not in self._defaults | options:
            results = [best for (best,) in results]
        return results[0] if alone and not nested else results

    def _options(self, options: Mapping[str, Any]) -> Options:
        given = self._defaults | dict(options)
        check_names(given, Options)
        return Options(**given)

    def _result(self, scores: np.ndarray, top_k: int | None) -> list[dict[str, Any]]:
        order = np.argsort(-scores, kind="stable")[:top_k]
        return [{"label": self._labels[i], "score": float(scores[i])} for i in order]


def _text(given: Input) -> str | tuple[str, str]:
    if isinstance(given, str):
        return given
    expected = 'a text, or {"text": str, "text_pair": str}'
    require(isinstance(given, Mapping) and given.keys() == {"text", "text_pair"}, "inputs", given, expected)
    return given["text"], given["text_pair"]
