"""pipeline(task): from the name of a task to what does it."""

import sys
from dataclasses import replace
from types import ModuleType

import pytest
from tiny import TINY, draw

import jaxgpt
from jaxgpt import gpt
from jaxgpt.model import Model
from jaxgpt.pipelines import TASKS, pipeline
from jaxgpt.tokenizers import CharTokenizer

CFG = replace(TINY, n_layers=1)
MODEL = Model(CFG, draw(gpt.declare(CFG)), CharTokenizer("abcdefghijklmnopqrstuvw"))


@pytest.fixture
def made(monkeypatch):
    """What the class of every task is made with."""
    seen = []
    for module, kind in TASKS.values():
        fake = ModuleType(module)
        setattr(fake, kind, lambda model, kind=kind, **options: seen.append((kind, model, options)))
        monkeypatch.setitem(sys.modules, f"jaxgpt.pipelines.{module}", fake)
    return seen


def test_a_task_has_its_class(made):
    for task, (_, kind) in TASKS.items():
        pipeline(task, MODEL, top_k=3)
        assert made.pop() == (kind, MODEL, {"top_k": 3})
    jaxgpt.pipeline("translation_en_to_fr", model=MODEL)
    assert made.pop() == ("Translation", MODEL, {"task": "translation_en_to_fr"})


def test_a_tokenizer_may_be_given_itself_or_by_its_folder(made, tmp_path):
    other = CharTokenizer("wvutsrqponmlkjihgfedcba")
    other.save(tmp_path)
    for given in (other, tmp_path, str(tmp_path)):
        pipeline("fill-mask", MODEL, given)
        _, model, _ = made.pop()
        assert model.tokenizer.encode("ab") == [22, 21]
        assert model.params is MODEL.params


@pytest.mark.parametrize("task", ["text-generaton", "translation_to_fr", ""])
def test_an_unknown_task_gets_the_names_of_all(task):
    with pytest.raises(ValueError, match=f"task: found '{task}', expected one of text-generation, fill-mask"):
        pipeline(task, MODEL)


def test_a_model_of_another_kind_is_refused():
    encoder = replace(MODEL, config=replace(CFG, architecture="encoder"))
    with pytest.raises(ValueError, match=r"model\.architecture: found 'encoder', expected decoder"):
        pipeline("text-generation", encoder)
