"""Classes of texts, as transformers' pipeline tells them."""

import decoder_peers
import pytest
from decoder_peers import GPT2, LLAMA, rope
from encoders import make, same

from jaxgpt.pipelines import pipeline
from jaxgpt.tokenizers import BPETokenizer

pytest.importorskip("transformers")
pytest.importorskip("torch")

LABELS = {"id2label": {0: "bad", 1: "so so", 2: "good"}, "label2id": {"bad": 0, "so so": 1, "good": 2}}


@pytest.fixture(scope="module", params=["BertForSequenceClassification", "DistilBertForSequenceClassification"])
def both(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    peer = make(request.param, folder, **LABELS)
    return pipeline("text-classification", model=folder), peer("text-classification")


TEXTS = ["the cat sat on the mat .", ""]
PAIRS = [{"text": "the cat sat", "text_pair": "a dog sat on the mat"}, {"text": "a dog", "text_pair": "a fox"}]


@pytest.mark.parametrize("inputs", [TEXTS[0], TEXTS, TEXTS[:1], PAIRS[0], PAIRS])
@pytest.mark.parametrize(
    "options",
    [{}, {"top_k": None}, {"top_k": 1}, {"top_k": 2, "function_to_apply": "sigmoid"}, {"function_to_apply": "none"}],
)
def test_the_result_is_transformers_own(both, inputs, options):
    ours, theirs = both
    same(ours(inputs, **options), theirs(inputs, **options))


@pytest.mark.parametrize("inputs", [TEXTS[0], TEXTS, PAIRS[0]])
def test_options_of_all_calls(both, inputs):
    ours, theirs = both
    theirs = type(theirs)(model=theirs.model, tokenizer=theirs.tokenizer, device="cpu", top_k=None)
    same(pipeline("sentiment-analysis", model=ours.model, top_k=None)(inputs), theirs(inputs))


@pytest.mark.parametrize("inputs", ["the cat " * 40, {"text": "the cat " * 3, "text_pair": "a dog " * 40}])
def test_texts_are_cut_where_it_is_asked_for(both, inputs):
    ours, theirs = both
    for length in (29, 12):
        same(ours(inputs, truncation=True, max_length=length), theirs(inputs, truncation=True, max_length=length))
    with pytest.raises(
        ValueError, match=r"text 0: found .* tokens, expected at most 29, . that begin and end it among"
    ):
        ours(inputs)


def test_one_class_is_a_sigmoid_without_a_name(tmp_path):
    theirs = make("BertForSequenceClassification", tmp_path, num_labels=1)("text-classification")
    ours = pipeline("text-classification", model=tmp_path)
    same(ours(TEXTS), theirs(TEXTS))


@pytest.mark.parametrize(("kind", "values"), [("GPT2", GPT2), ("Qwen2", LLAMA | rope())])
def test_a_decoder_tells_the_classes_that_transformers_tells(kind, values, tmp_path):
    """By the last token; and in a batch, where it stands before padding."""
    import transformers

    tokenizer = BPETokenizer.train([TEXTS[0]] * 3, 270)
    sizes = {"vocab_size": tokenizer.vocab_size, "pad_token_id": tokenizer.end_of_text}
    decoder_peers.make(kind, values | LABELS | sizes, "SequenceClassification").save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    ours = pipeline("text-classification", model=tmp_path)
    theirs = transformers.pipeline("text-classification", model=str(tmp_path), device="cpu")
    texts = [TEXTS[0], "a dog", "the cat sat", "x"]
    for inputs in (texts[0], texts):
        same(ours(inputs, top_k=None), theirs(inputs, top_k=None))
    assert {one["label"] for one in ours(texts)} <= {"bad", "so so", "good"}
    with pytest.raises(ValueError, match="text 0: found 'no tokens', expected at least one"):
        ours("")


def test_what_can_not_be_used_is_refused(both, tmp_path):
    ours, _ = both
    with pytest.raises(ValueError, match=r"inputs: found .*'second'.*, expected a text, or"):
        ours({"text": "a", "second": "b"})
    with pytest.raises(ValueError, match="function_to_apply: found 'exp', expected one of softmax, sigmoid, none"):
        ours("a", function_to_apply="exp")
    with pytest.raises(ValueError, match="max_length: found 12, expected None without truncation"):
        ours("a", max_length=12)
    make("BertForMaskedLM", tmp_path)
    with pytest.raises(ValueError, match="head: found 'lm', expected sequence, to classify texts"):
        pipeline("text-classification", model=tmp_path)


def test_classes_that_do_not_exclude_each_other_are_refused(tmp_path):
    make("BertForSequenceClassification", tmp_path, problem_type="multi_label_classification")
    with pytest.raises(ValueError, match="problem_type: found 'multi_label_classification', expected None or"):
        pipeline("text-classification", model=tmp_path)
