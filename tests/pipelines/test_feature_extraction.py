"""States of texts' tokens, as transformers' pipeline gives them; and a vector a text."""

import pytest
from encoders import make, same

from jaxgpt import embed_texts
from jaxgpt.pipelines import pipeline

pytest.importorskip("transformers")
pytest.importorskip("torch")


@pytest.fixture(scope="module", params=["BertModel", "DistilBertModel"])
def both(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    peer = make(request.param, folder)
    return pipeline("feature-extraction", model=folder), peer("feature-extraction")


TEXTS = ["the cat sat on the mat .", "", "a dog"]


@pytest.mark.parametrize("inputs", [TEXTS[0], TEXTS, TEXTS[:1]])
def test_the_result_is_transformers_own(both, inputs):
    ours, theirs = both
    same(ours(inputs), theirs(inputs))


def test_texts_are_cut_where_it_is_asked_for(both):
    ours, theirs = both
    same(ours("the cat " * 40, truncation=True), theirs("the cat " * 40, truncation=True))
    with pytest.raises(ValueError, match="text 0: found 82 tokens, expected at most 29, 2 that begin and end it among"):
        ours("the cat " * 40)


def test_pooled_states_are_the_library_s_vectors(both):
    ours, _ = both
    found = ours(TEXTS, pooling="mean", normalize=True)
    assert found == embed_texts(ours.model, TEXTS, pooling="mean", normalize=True).tolist()
    assert ours(TEXTS[0], pooling="cls") == pytest.approx(ours(TEXTS[0])[0][0], abs=1e-6)


def test_what_can_not_be_used_is_refused(both):
    ours, _ = both
    with pytest.raises(ValueError, match="return_tensors: found an unknown field, expected one of truncation, pooling"):
        ours("a", return_tensors=True)
    with pytest.raises(ValueError, match="normalize: found True, expected False without pooling"):
        ours("a", normalize=True)
