"""The fields of a `config.json`: each is read, or known to change nothing, or refused by name."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any

from jaxgpt.checks import holds, nearest, require, words
from jaxgpt.tokenizers.base import read_object

CONFIG = "config.json"

# What any family's file may hold, and what no number of the model depends on. Token ids, labels and dtypes that a
# family or a pipeline does use are read as any other field is.
_HARMLESS = {
    # what the file is; auto_map names code beside it, which is never run
    "_name_or_path", "architectures", "auto_map", "model_type", "name_or_path", "transformers_version",
    "_commit_hash", "transformers.js_config",
    # how transformers runs it
    "_attn_implementation", "_attn_implementation_autoset", "_attn_implementation_internal", "attn_implementation",
    "_experts_implementation", "_experts_implementation_internal", "chunk_size_feed_forward", "dtype",
    "gradient_checkpointing", "torch_dtype", "torchscript", "use_bfloat16", "use_cache",
    # what it returns
    "keys_to_ignore_at_inference", "output_attentions", "output_hidden_states", "output_past", "return_dict",
    "tie_last_hidden_states",
    # how it was begun
    "init_std", "initializer_factor", "initializer_range",
    # tokens and labels
    "_num_labels", "bos_token_id", "decoder_start_token_id", "eos_token_id", "finetuning_task", "id2label", "label2id",
    "num_labels", "pad_token_id", "prefix", "sep_token_id", "task_specific_params", "tokenizer_class",
    # how it generates, of which generation_config.json has the word
    "assistant_confidence_threshold", "bad_words_ids", "begin_suppress_tokens", "diversity_penalty", "do_sample",
    "early_stopping", "encoder_no_repeat_ngram_size", "encoder_repetition_penalty", "epsilon_cutoff", "eta_cutoff",
    "exponential_decay_length_penalty", "force_bos_token_to_be_generated", "forced_bos_token_id", "forced_eos_token_id",
    "length_penalty", "max_length", "max_new_tokens", "min_length", "min_new_tokens", "no_repeat_ngram_size",
    "num_assistant_tokens", "num_assistant_tokens_schedule", "num_beam_groups", "num_beams", "num_return_sequences",
    "output_scores", "remove_invalid_values", "repetition_penalty", "return_dict_in_generate", "suppress_tokens",
    "target_lookbehind", "temperature", "top_k", "top_p", "typical_p", "assistant_lookbehind",
}  # fmt: skip

# What any family's file may hold, as long as it says this.
_DEFAULTS: dict[str, tuple] = {
    "add_cross_attention": (False,),
    "cross_attention_hidden_size": (None,),
    "is_decoder": (False,),
    "is_encoder_decoder": (False,),
    "per_layer_config": (None, {}),
    "problem_type": (None, "single_label_classification"),
    "pruned_heads": (None, {}),
    "quantization_config": (None,),
    "tie_encoder_decoder": (False,),
}


class Fields:
    """A config.json's object, which remembers what was read of it.

    where: what the errors call it, the file's path say.
    """

    def __init__(self, values: dict[str, Any], where: str | Path):
        self._values = values
        self._where = where
        self._read: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def get(self, name: str, default: Any, kind: type | UnionType | None = None) -> Any:
        """The field's value, or the default where there is none.

        kind: the type that a value must have (`int | list` say), the default's if not given; an integer is a float too.
        null is refused unless the default is None. Raises ValueError.
        """
        self._read.add(name)
        value = self._values.get(name, default)
        if value is not None or default is not None:
            require(holds(value, kind or type(default)), f"{self._where}: {name}", value, words(kind or type(default)))
        return value

    def choose(self, name: str, names: Mapping[str, Any], default: str) -> Any:
        """What the field's value, or the default, is a name of. Raises ValueError, with those known, for another."""
        value = self.get(name, default)
        require(value in names, f"{self._where}: {name}", value, nearest(value, names))
        return names[value]

    def check(self, name: str, condition: bool, expected: str) -> None:
        """Raise ValueError for what the field says unless the condition holds."""
        require(condition, f"{self._where}: {name}", self._values.get(name), expected)

    def dropout(self, name: str, *others: str, default: float = 0.1) -> float:
        """The rate at which activations are dropped in training. Warns of rates of other places that are unlike it.

        There is one rate here, and no other use of a model depends on any.
        """
        value = self.get(name, default)
        found = {other: self.get(other, None, float) for other in others}
        unlike = [f"{other}={rate}" for other, rate in found.items() if rate not in (None, value)]
        if unlike:
            warnings.warn(f"{self._where}: training drops {', '.join(unlike)} at {name}={value}", stacklevel=2)
        return value

    def ignore(self, *names: str) -> None:
        """Fields that may say anything."""
        self._read.update(names)

    def section(self, name: str) -> "Fields | None":
        """The fields of the object that this one holds, to be read and finished likewise; None for none."""
        values = self.get(name, None, dict)
        return None if values is None else Section(values, f"{self._where}: {name}")

    def expect(self, name: str, *allowed: Any) -> None:
        """Raise ValueError unless the field is absent or one of the values."""
        self._read.add(name)
        if name in self._values:
            value = self._values[name]
            expected = " or ".join(map(repr, allowed))
            require(any(_same(value, one) for one in allowed), f"{self._where}: {name}", value, expected)

    def finish(self) -> None:
        """Raise ValueError for a field that was not read, unless it can't change what the model computes."""
        for name, value in self._unread():
            if name in _DEFAULTS:
                self.expect(name, *_DEFAULTS[name])
            elif name not in _HARMLESS:
                family = self._values.get("model_type")
                raise ValueError(f"{self._where}: {name}: found {value!r}, expected no such field: {family} reads none")

    def _unread(self) -> list[tuple[str, Any]]:
        return [(name, value) for name, value in self._values.items() if name not in self._read]


class Section(Fields):
    """Fields of which each must be read."""

    def finish(self) -> None:
        for name, value in self._unread():
            raise ValueError(f"{self._where}: {name}: found {value!r}, expected one of {', '.join(sorted(self._read))}")


def read_fields(folder: str | Path) -> Fields:
    """The fields of the folder's config.json. Raises FileNotFoundError if there is none, ValueError if it is broken."""
    file = Path(folder) / CONFIG
    if not file.is_file():
        raise FileNotFoundError(f"{folder}: found no {CONFIG}, expected that of a model")
    return Fields(read_object(file), file)


def _same(value: Any, other: Any) -> bool:
    return value == other and isinstance(value, bool) == isinstance(other, bool)
