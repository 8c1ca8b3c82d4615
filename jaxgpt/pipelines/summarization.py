"""The task "summarization": a short text of a long one."""

from typing import Any, ClassVar

from jaxgpt.model import Model
from jaxgpt.pipelines.translation import Translation


class Summarization(Translation):
    """Sums texts up: as `Translation`, but that a call gives [{"summary_text": ...}]."""

    key: ClassVar[str] = "summary_text"

    def __init__(self, model: Model, **options: Any):
        super().__init__(model, **{"task": "summarization"} | options)
