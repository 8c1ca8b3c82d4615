"""Models put to a task, with the arguments and results of transformers' pipelines: `pipeline`.

A program written for transformers runs with its import changed:
`from jaxgpt.pipelines import AutoModelForCausalLM, AutoTokenizer, pipeline`.
"""

import importlib
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxgpt.checks import nearest, require
from jaxgpt.model import Model
from jaxgpt.pipelines.auto import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    place,
)
from jaxgpt.tokenizers import Tokenizer

__all__ = [
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoModelForMaskedLM",
    "AutoModelForSeq2SeqLM",
    "AutoModelForSequenceClassification",
    "AutoTokenizer",
    "pipeline",
]

# The module and the class of each task; imported when asked for.
TASKS = {
    "text-generation": ("text_generation", "TextGeneration"),
    "fill-mask": ("fill_mask", "FillMask"),
    "text-classification": ("text_classification", "TextClassification"),
    "sentiment-analysis": ("text_classification", "TextClassification"),
    "translation": ("translation", "Translation"),
    "summarization": ("summarization", "Summarization"),
    "feature-extraction": ("feature_extraction", "FeatureExtraction"),
}
_DIRECTION = re.compile(r"translation_\w+_to_\w+")


def pipeline(
    task: str,
    model: str | Path | Model,
    tokenizer: str | Path | Tokenizer | None = None,
    *,
    device: Any = None,
    device_map: Any = None,
    torch_dtype: Any = None,
    dtype: Any = None,
    trust_remote_code: bool | None = None,
    revision: str | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> Any:
    """A function of a task's inputs: pipeline("text-generation", "gpt2")("Hello").

    task: one of TASKS, or "translation_en_to_fr" and the like. model: what `jaxgpt.load` takes, or a loaded one.
    tokenizer: another than the model's own, or the folder or repository of one. options: of the task's class, for
    every call. The rest: see `auto.place`, of whose arguments model_kwargs may hold more.
    Raises ValueError for what can't be used, FileNotFoundError where there is no such model.
    """
    name = "translation" if _DIRECTION.fullmatch(task) else task
    require(name in TASKS, "task", task, nearest(task, [*TASKS, "translation_xx_to_yy"]))
    module, kind = TASKS[name]
    if name != task:
        options = {"task": task} | options
    model = place(
        model,
        device=device,
        device_map=device_map,
        torch_dtype=torch_dtype,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
        revision=revision,
        **(model_kwargs or {}),
    )
    if tokenizer is not None:
        given = tokenizer if isinstance(tokenizer, Tokenizer) else AutoTokenizer.from_pretrained(tokenizer)
        model = replace(model, tokenizer=given)
    return getattr(importlib.import_module(f"jaxgpt.pipelines.{module}"), kind)(model, **options)
