"""How near a model's own texts are to the answers that were asked for: exact match and ROUGE."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxgpt.bars import shown
from jaxgpt.checks import require
from jaxgpt.generation import pieces, random_key, row_keys
from jaxgpt.model import Model

INSTALL = "rouge-score, which measures: pip install 'jaxgpt[evaluation]'"


class AnswerScores(NamedTuple):
    """Means over the prompts, each from 0 to 1."""

    exact_match: float
    """Text and answer are the same, but for white space around them."""
    rouge1: float
    """F1 of the words that both have."""
    rouge2: float
    """F1 of the pairs of neighbouring words that both have."""
    rougeL: float
    """F1 by the longest common subsequence of words."""
    records: int


def answer_texts(
    model: Model,
    prompts: Sequence[str | Sequence[dict[str, str]]],
    *,
    max_new_tokens: int,
    stop: Sequence[str] = (),
    batch_size: int = 16,
    progress: bool = False,
) -> list[str]:
    """What the model says, greedily, after each prompt, a text or a conversation: `generation.generate` of many.

    batch_size: prompts at once, those of like length together; in float32 no text depends on it. progress: show a bar,
    on a terminal. Raises ValueError, before any work, as `generate` and `Tokenizer.encode_chat` do.
    """
    require(batch_size >= 1, "batch_size", batch_size, "a positive integer")
    tokenizer, most = model.tokenizer, model.config.context_length
    ids = []
    for i, prompt in enumerate(prompts):
        if isinstance(prompt, str):
            ids.append(tokenizer.frame(tokenizer.encode(prompt)) or tokenizer.start)
        else:
            ids.append(tokenizer.encode_chat(prompt))
        require(len(ids[i]) <= most, f"prompt {i}", f"{len(ids[i])} tokens", f"at most {most}")
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    batches = [order[at : at + batch_size] for at in range(0, len(order), batch_size)]
    running = []  # each refuses what it can't use before the first begins
    for batch in batches:
        rows = [ids[i] for i in batch]
        keys = row_keys(random_key(0), rows)
        running.append(pieces(model, rows, keys, max_new_tokens=max_new_tokens, stop=stop))
    texts = {}
    for batch, found in shown(list(zip(batches, running, strict=True)), "generation", progress):
        texts |= dict(zip(batch, ["".join(row) for row in zip(*found, strict=True)], strict=True))
    return [texts[i] for i in range(len(ids))]


def answer_scores(texts: Sequence[str], answers: Sequence[str]) -> AnswerScores:
    """Of the text to each answer. Raises ImportError without the `evaluation` extra, ValueError where there is none.

    Words are runs of a-z and 0-9, lower-cased, not stemmed: ROUGE says nothing of a text in another script.
    Source: Lin 2004, as Google's rouge-score computes it.
    """
    try:
        from rouge_score.rouge_scorer import RougeScorer  # an extra, and slow to import
    except ImportError as error:
        raise ImportError(f"to measure generation needs {INSTALL}") from error
    require(len(texts) > 0, "texts", "none", "at least one")
    kinds = ("rouge1", "rouge2", "rougeL")
    scorer = RougeScorer(list(kinds))
    pairs = list(zip(texts, answers, strict=True))
    found = [scorer.score(answer, text) for text, answer in pairs]
    rouge: dict[str, Any] = {kind: float(np.mean([one[kind].fmeasure for one in found])) for kind in kinds}
    same = np.mean([text.strip() == answer.strip() for text, answer in pairs])
    return AnswerScores(float(same), **rouge, records=len(pairs))
