"""The task "feature-extraction": the states of texts' tokens, or a vector a text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxgpt.bert import Pooling
from jaxgpt.checks import check_names, check_types, require
from jaxgpt.model import Model
from jaxgpt.vectors import embed_texts, token_states


@dataclass(frozen=True)
class Options:
    """What a call may say, by transformers' names; pooling and normalize by transformers.js'."""

    truncation: bool = False
    """Cut texts to context_length; otherwise one that is too long is refused."""
    pooling: Pooling | None = None
    """How the states become one vector a text (None: they do not)."""
    normalize: bool = False
    """Divide that vector by its length."""
    batch_size: int = 64
    """Texts at once."""

    def __post_init__(self):
        check_types(self)
        require(self.pooling is not None or not self.normalize, "normalize", self.normalize, "False without pooling")


class FeatureExtraction:
    """The states of an encoder, as transformers' pipeline of that task.

    options: fields of `Options`, for every call.
    Raises ValueError for a model that is no encoder and for options that can't be used.
    """

    def __init__(self, model: Model, **options: Any):
        require(model.config.architecture == "encoder", "model.architecture", model.config.architecture, "encoder")
        self.model = model
        self._defaults = options
        self._options({})

    def __call__(self, inputs: str | Sequence[str], **options: Any) -> list:
        """Numbers as lists, [1][tokens][d_model], for a text; of a list of texts, a list of that.

        With pooling, [d_model] in place of each: the vectors of `embed_texts`, which cuts what is too long.
        Raises ValueError, before any work, for inputs and options that can't be used.
        """
        chosen = self._options(options)
        texts = [inputs] if isinstance(inputs, str) else list(inputs)
        if chosen.pooling is None:
            cut = self.model.config.context_length if chosen.truncation else None
            states = token_states(self.model, texts, max_tokens=cut, batch_size=chosen.batch_size)
            results = [[one.tolist()] for one in states]
        else:
            pooling = {"pooling": chosen.pooling, "normalize": chosen.normalize}
            results = embed_texts(self.model, texts, **pooling, batch_size=chosen.batch_size).tolist()
        return results[0] if isinstance(inputs, str) else results

    def _options(self, options: Mapping[str, Any]) -> Options:
        given = self._defaults | dict(options)
        check_names(given, Options)
        return Options(**given)
