"""Texts beside the answers that were asked for: ROUGE by hand, and texts that are those of `generate`."""

from dataclasses import replace

import pytest
from phi3 import write_tokenizer
from tiny import TINY, draw

from jaxgpt import gpt, tokenizers
from jaxgpt.evaluation.answers import answer_scores, answer_texts
from jaxgpt.generation import generate, generate_tokens
from jaxgpt.model import Model
from jaxgpt.tokenizers import CharTokenizer

CFG = replace(TINY, n_layers=1, position="rotary")


@pytest.fixture(scope="module")
def model():
    return Model(CFG, draw(gpt.declare(CFG), seed=5), CharTokenizer([chr(ord("a") + i) for i in range(23)]))


def test_scores_by_hand():
    pytest.importorskip("rouge_score")
    # "the cat sat" and "the cat ate mice": 2 words of 3 and 4; 1 pair of 2 and 3; "the cat" in order.
    f1 = {"rouge1": 2 * 2 / (3 + 4), "rouge2": 2 * 1 / (2 + 3), "rougeL": 2 * 2 / (3 + 4)}
    found = answer_scores(["The cat sat."], ["the cat ate mice"])
    assert found._asdict() == pytest.approx({"exact_match": 0, "records": 1} | f1)
    # In another order: all words, none of the pairs, one in order.
    found = answer_scores(["sat cat the"], ["the cat sat"])
    assert found == pytest.approx((0, 1, 0, 1 / 3, 1))
    assert answer_scores([" the cat\n", "a dog"], ["the cat", "mice"]) == pytest.approx((0.5, 0.5, 0.5, 0.5, 2))


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_texts_are_those_of_generate_in_the_order_of_the_prompts(model, batch_size):
    prompts = ["abcdefgh", "b", "cab", "hgf", ""]
    texts = answer_texts(model, prompts, max_new_tokens=6, stop=("m",), batch_size=batch_size)
    assert texts == generate(model, prompts, max_new_tokens=6, stop="m")
    assert len(set(texts)) > 3
    assert "" in texts


def test_a_conversation_is_what_the_template_writes(tmp_path):
    pytest.importorskip("jinja2")
    write_tokenizer(tmp_path)
    tokenizer = tokenizers.load(tmp_path)
    cfg = replace(CFG, vocab_size=tokenizer.vocab_size, context_length=64)
    model = Model(cfg, draw(gpt.declare(cfg)), tokenizer)
    (text,) = answer_texts(model, [[{"role": "user", "content": "Hi"}]], max_new_tokens=5)
    ids = tokenizer.encode_chat([{"role": "user", "content": "Hi"}])
    (tokens,) = generate_tokens(model.params, [ids], cfg, max_new_tokens=5)
    assert text != ""
    assert tokenizer.decode([*ids, *tokens]) == tokenizer.decode(ids) + text


def test_what_can_not_be_used_is_refused(model):
    with pytest.raises(ValueError, match=r"prompt 1: found '20 tokens', expected at most 19"):
        answer_texts(model, ["a", "a" * 20], max_new_tokens=1)
    with pytest.raises(ValueError, match="batch_size: found 0"):
        answer_texts(model, ["a"], max_new_tokens=1, batch_size=0)
    pytest.importorskip("rouge_score")
    with pytest.raises(ValueError, match="texts: found 'none'"):
        answer_scores([], [])
