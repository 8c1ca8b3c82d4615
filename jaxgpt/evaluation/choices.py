"""How often a model finds the right one of several texts likeliest: few-shot classes, multiple choice."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxgpt.checks import require
from jaxgpt.model import Model
from jaxgpt.scoring import encode_pairs, score


class ChoiceAccuracy(NamedTuple):
    """Shares of the records whose right choice is taken."""

    accuracy: float
    """The choice taken is the likeliest."""
    accuracy_per_token: float
    """It is that of the greatest mean log-likelihood of its tokens: a longer one is no less likely for its length."""
    chance: float
    """Any is taken, as likely as another."""
    records: int


def choice_accuracy(
    model: Model,
    prompts: Sequence[str],
    choices: Sequence[Sequence[str]],
    answers: Sequence[int],
    *,
    progress: bool = False,
) -> ChoiceAccuracy:
    """Of several prompts, each with its choices of what follows and the place of the right one.

    `jaxgpt.prompting.few_shot` writes prompts with examples. Of equals the first is taken.
    progress: show a bar, on a terminal.
    Raises ValueError as `scoring.score` does, and where there is no prompt, fewer than two choices, or an answer that
    is none of them.
    """
    require(len(prompts) > 0, "prompts", "none", "at least one")
    for i, (options, answer) in enumerate(zip(choices, answers, strict=True)):
        require(len(options) > 1, f"choices of prompt {i}", list(options), "two or more")
        require(0 <= answer < len(options), f"answer of prompt {i}", answer, f"0..{len(options) - 1}")
    nats = score(model, list(prompts), list(choices), progress=progress)
    texts = [(prompt, choice) for prompt, options in zip(prompts, choices, strict=True) for choice in options]
    lengths = iter([len(continuation) for _, continuation in encode_pairs(model.tokenizer, texts)])
    whole, mean = [], []
    for found, answer in zip(nats, answers, strict=True):
        whole.append(np.argmax(found) == answer)
        mean.append(np.argmax([one / next(lengths) for one in found]) == answer)
    chance = np.mean([1 / len(options) for options in choices])
    return ChoiceAccuracy(float(np.mean(whole)), float(np.mean(mean)), float(chance), len(prompts))
