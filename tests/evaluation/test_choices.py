"""The share of right choices, by whole log-likelihoods and by their mean over tokens."""

from dataclasses import replace

import numpy as np
import pytest
from tiny import TINY, draw

from jaxgpt import gpt
from jaxgpt.evaluation import choices as module
from jaxgpt.evaluation.choices import choice_accuracy
from jaxgpt.model import Model
from jaxgpt.scoring import score
from jaxgpt.tokenizers import CharTokenizer

CFG = replace(TINY, n_layers=1)


@pytest.fixture(scope="module")
def model():
    return Model(CFG, draw(gpt.declare(CFG)), CharTokenizer([chr(ord("a") + i) for i in range(23)]))


def test_the_choice_is_the_likeliest_or_that_of_the_likeliest_tokens(model, monkeypatch):
    scores = {"a": [-3.0, -4.0], "b": [-3.0, -4.0, -9.0], "c": [-2.0, -2.0]}
    monkeypatch.setattr(module, "score", lambda _, prompts, __, **___: [scores[prompt] for prompt in prompts])
    options = [["a", "bcd"], ["a", "bcd", "a"], ["a", "b"]]  # per token -3, -1.33; -3, -1.33, -9; -2, -2
    assert choice_accuracy(model, "abc", options, [0, 1, 0]) == (2 / 3, 2 / 3, pytest.approx(4 / 9), 3)
    assert choice_accuracy(model, "abc", options, [0, 0, 1]) == (2 / 3, 0, pytest.approx(4 / 9), 3)
    assert choice_accuracy(model, "abc", options, [1, 1, 0]) == (1 / 3, 1, pytest.approx(4 / 9), 3)


def test_they_are_the_log_likelihoods_of_the_model(model):
    rng = np.random.default_rng(0)
    prompts = ["".join(rng.choice([*"abcdefg"], 6)) for _ in range(12)]
    options = [["h", "ij", "klm"]] * 12
    whole, mean = (np.array(score(model, prompts, options, per=per)).argmax(1) for per in ("text", "token"))
    assert (whole != mean).any()
    found = choice_accuracy(model, prompts, options, mean.tolist())
    assert found == ((whole == mean).mean(), 1.0, pytest.approx(1 / 3), 12)


@pytest.mark.parametrize(
    ("prompts", "options", "answers", "message"),
    [
        ([], [], [], "prompts: found 'none', expected at least one"),
        (["a"], [["b"]], [0], r"choices of prompt 0: found \['b'\], expected two or more"),
        (["a"], [["b", "c"]], [2], r"answer of prompt 0: found 2, expected 0\.\.1"),
        (["a" * 30], [["b", "c"]], [0], "prompt 0, continuation 0: found '31 tokens', expected at most 20"),
    ],
)
def test_what_can_not_be_used_is_refused(model, prompts, options, answers, message):
    with pytest.raises(ValueError, match=message):
        choice_accuracy(model, prompts, options, answers)
