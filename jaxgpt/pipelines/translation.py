"""The task "translation": texts of one language from those of another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax

from jaxgpt.beam import EarlyStopping
from jaxgpt.checks import check_names, check_types, nearest, require
from jaxgpt.model import GenerationDefaults, Model
from jaxgpt.sampling import Sampler
from jaxgpt.translation import source_rows, target_choices, target_texts, translate_tokens

NEW_TOKENS = 256  # as transformers, where neither the caller nor the checkpoint says


@dataclass(frozen=True)
class Options:
    """What a call may say, by transformers' names, but for seed."""

    max_new_tokens: int | None = None
    """Most tokens of a result (None: by max_length; 256 where that is None too)."""
    max_length: int | None = None
    """The same, and 1 for the token that every result starts from; where max_new_tokens is None."""
    min_new_tokens: int | None = None
    """Fewest tokens of a result (None: by min_length)."""
    min_length: int = 0
    """The same, and 1 for the start."""
    num_beams: int = 1
    """Hypotheses to keep."""
    length_penalty: float = 1.0
    """The power of a hypothesis' length that its log-probability is divided by."""
    early_stopping: EarlyStopping = False
    """As of `beam.advance`."""
    do_sample: bool = False
    """Draw tokens, by the next four, as of `Sampler`."""
    temperature: float = 1.0
    top_k: int | None = 50
    top_p: float | None = None
    min_p: float | None = None
    truncation: bool = False
    """Cut texts to context_length; otherwise one that is too long is refused."""
    batch_size: int = 64
    """Texts at once."""
    seed: int = 0
    """Of the draws: the same seed gives the same texts."""

    def __post_init__(self):
        check_types(self)
        for name in ("max_new_tokens", "min_new_tokens", "num_beams", "batch_size"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, "a positive integer")
        require(self.max_length is None or self.max_length >= 2, "max_length", self.max_length, "at least 2")
        require(0 <= self.seed < 2**32, "seed", self.seed, "an integer from 0, below 2**32")
        require(
            self.most() >= self.fewest(), "min_length", self.fewest(), f"at most the {self.most()} tokens there may be"
        )
        self.sampler()

    def most(self) -> int:
        """Tokens of a result."""
        if self.max_new_tokens is not None or self.max_length is None:
            return self.max_new_tokens or NEW_TOKENS
        return self.max_length - 1

    def fewest(self) -> int:
        """Tokens of a result before its end."""
        return max(0, self.min_length - 1) if self.min_new_tokens is None else self.min_new_tokens

    def sampler(self) -> Sampler:
        """How tokens are chosen."""
        return Sampler(self.temperature, self.top_k or None, self.top_p, self.min_p) if self.do_sample else Sampler()


class Translation:
    """Translates texts, as the pipeline of that task of transformers 4 did (5 has none).

    task: of settings.prefixes, by which what a text begins with is found, "translation_en_to_de" say. options: fields
    of `Options`, for every call; where none is given the checkpoint's generation_config.json has the word, and then
    `Options`.
    Raises ValueError for a model that is no encoder-decoder and for options that can't be used.
    """

    key: ClassVar[str] = "translation_text"

    def __init__(self, model: Model, *, task: str = "translation", **options: Any):
        self.model = model
        prefixes = dict(model.settings.prefixes)
        directions = [name for name in prefixes if name.startswith("translation_")]
        unknown = task.startswith("translation_") and directions and task not in directions
        require(not unknown, "task", task, nearest(task, directions))
        self._prefix = prefixes.get(task, "")
        self._defaults = _said(model.generation) | options
        self._options({})
        architecture = model.config.architecture
        require(architecture == "encoder-decoder", "model.architecture", architecture, "encoder-decoder")

    def __call__(self, inputs: str | Sequence[str], **options: Any) -> list[dict[str, str]]:
        """[{"translation_text": ...}] for a text, and so for a list of texts: one each. Without special tokens.

        Raises ValueError, before any work, for inputs and options that can't be used.
        """
        model, chosen = self.model, self._options(options)
        texts = [inputs] if isinstance(inputs, str) else inputs
        sources = source_rows(model, [self._prefix + text for text in texts])
        if chosen.truncation:
            sources = [[*row[:-1][: model.config.context_length - 1], row[-1]] for row in sources]
        targets = translate_tokens(
            model.inference_params,
            sources,
            model.inference_config,
            **target_choices(model),
            beam=chosen.num_beams,
            length_penalty=chosen.length_penalty,
            length_offset=0,
            early_stopping=chosen.early_stopping,
            max_new_tokens=chosen.most(),
            fewest=chosen.fewest(),
            sampler=chosen.sampler(),
            key=jax.random.key(chosen.seed),
            batch_size=chosen.batch_size,
        )
        return [{self.key: text} for text in target_texts(model, targets)]

    def _options(self, options: Mapping[str, Any]) -> Options:
        given = self._defaults | dict(options)
        check_names(given, Options)
        return Options(**given)


def _said(generation: GenerationDefaults) -> dict[str, Any]:
    """What a checkpoint says of the fields of `Options`."""
    same = ("max_new_tokens", "max_length", "do_sample", "temperature", "top_k", "top_p", "min_p")
    same += ("length_penalty", "early_stopping")
    found = {name: getattr(generation, name) for name in same} | {"num_beams": generation.beam}
    return {name: value for name, value in found.items() if value is not None}
