"""Accuracy and F1 of a model with a head that classifies."""

from dataclasses import replace

import numpy as np
import pytest
from tiny import TINY, draw

from jaxgpt import gpt
from jaxgpt.classification import classify_texts
from jaxgpt.evaluation import classes as module
from jaxgpt.evaluation.classes import class_scores
from jaxgpt.model import Model, Settings
from jaxgpt.tokenizers import CharTokenizer

pytest.importorskip("sklearn")
CFG = replace(TINY, n_layers=1, head="sequence", n_classes=3)
NAMES = ("bad", "so so", "good")


@pytest.fixture(scope="module")
def model():
    tokenizer = CharTokenizer([chr(ord("a") + i) for i in range(23)])
    return Model(CFG, draw(gpt.declare(CFG)), tokenizer, Settings(labels=NAMES))


def test_measures_by_hand(model, monkeypatch):
    taken = [0, 0, 2, 2, 2, 0]
    monkeypatch.setattr(module, "classify_texts", lambda *_, **__: np.eye(3)[taken])
    found = class_scores(model, ["a"] * 6, ["bad", "good", "good", "good", "bad", "bad"])
    # bad: taken 3 times, 2 right, of 3; good: taken 3 times, 2 right, of 3; no text is so so.
    third = pytest.approx(2 / 3)
    assert (found.accuracy, found.macro_f1, found.majority, found.records, found.cut) == (third, third, 0.5, 6, 0)
    assert found.classes == {"bad": (third, third, third, 3), "good": (third, third, third, 3)}
    found = class_scores(model, ["a"] * 6, ["bad", "so so", "good", "good", "good", "good"])
    assert found.classes["so so"] == (0, 0, 0, 1)
    assert found.classes["good"] == (1, pytest.approx(3 / 4), pytest.approx(6 / 7), 4)
    assert found.classes["bad"] == (pytest.approx(1 / 3), 1, 0.5, 1)
    assert found.macro_f1 == pytest.approx((0.5 + 0 + 6 / 7) / 3)


def test_they_are_those_of_the_model(model):
    texts = ["abc", "cab", "fgh" * 9, "k", "mno"]
    names = [NAMES[i] for i in classify_texts(model, texts, max_tokens=19).argmax(1)]
    found = class_scores(model, texts, names, batch_size=2)
    assert (found.accuracy, found.macro_f1, found.cut) == (1, 1, 1)
    wrong = [NAMES[(NAMES.index(name) + 1) % 3] for name in names]
    assert class_scores(model, texts, wrong).accuracy == 0


def test_what_can_not_be_used_is_refused(model):
    with pytest.raises(ValueError, match="label of text 1: found 'fine', expected one of the model's classes: bad, so"):
        class_scores(model, ["a", "b"], ["bad", "fine"])
    with pytest.raises(ValueError, match="texts: found 'none'"):
        class_scores(model, [], [])
    with pytest.raises(ValueError, match=r"model\.labels: found \(\), expected the names of two"):
        class_scores(replace(model, settings=Settings()), ["a"], ["bad"])
