"""Blanks filled in, as transformers' pipeline does."""

import pytest
from encoders import TOKENIZER, make, same

from jaxgpt.pipelines import pipeline
from jaxgpt.tokenizers import CharTokenizer

pytest.importorskip("transformers")
pytest.importorskip("torch")


@pytest.fixture(scope="module", params=["BertForMaskedLM", "DistilBertForMaskedLM"])
def both(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    peer = make(request.param, folder)
    return pipeline("fill-mask", model=folder), peer("fill-mask")


TEXTS = ["the [MASK] sat on the mat .", "a [MASK] [MASK] Fox jumps", "[MASK] ! § fox"]


@pytest.mark.parametrize("inputs", [*TEXTS, TEXTS, TEXTS[:1], (TEXTS[1], TEXTS[0])])
def test_the_result_is_transformers_own(both, inputs):
    ours, theirs = both
    same(ours(inputs), theirs(list(inputs) if isinstance(inputs, tuple) else inputs))


@pytest.mark.parametrize("options", [{"top_k": 3}, {"targets": "dog"}, {"targets": ["cat", "Fox", "mat"], "top_k": 2}])
def test_options_of_a_call_or_of_all_calls(both, options, tmp_path):
    ours, theirs = both
    found = ours(TEXTS, **options)
    same(found, theirs(TEXTS, **options))
    assert pipeline("fill-mask", model=ours.model, **options)(TEXTS) == found


def test_a_target_of_several_tokens_is_its_first(both):
    ours, theirs = both
    with pytest.warns(UserWarning, match="targets: found 'foxes', of . tokens, expected one: its first"):
        found = ours(TEXTS[0], targets=["foxes", "dog"])
    same(found, theirs(TEXTS[0], targets=["foxes", "dog"]))
    with (
        pytest.raises(ValueError, match="targets: found '', expected at least one token"),
        pytest.warns(UserWarning, match="targets: found '', of 0 tokens, expected one: it is left out"),
    ):
        ours(TEXTS[0], targets="")


def test_what_can_not_be_used_is_refused(both):
    ours, _ = both
    with pytest.raises(ValueError, match="text 0: found 'the cat', expected \\[MASK\\] in it"):
        ours("the cat")
    with pytest.raises(ValueError, match="topk: found an unknown field, expected top_k"):
        ours(TEXTS[0], topk=1)
    with pytest.raises(ValueError, match="tokenizer: found 'char', expected one with a mask token"):
        pipeline("fill-mask", model=ours.model, tokenizer=CharTokenizer.train(["a"]))
    assert TOKENIZER.mask is not None
