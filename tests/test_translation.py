"""Translation of text: what goes in and comes out, and BLEU. The search itself: test_beam.py."""

from dataclasses import replace

import pytest
from tiny import TINY, draw

from jaxgpt import Model, seq2seq, translate
from jaxgpt.tokenizers import BPETokenizer, CharTokenizer, WordTokenizer
from jaxgpt.translation import bleu, target_texts

TOKENIZER = BPETokenizer.train(["ein hund und eine katze"], 260)
CFG = replace(TINY, architecture="encoder-decoder", vocab_size=TOKENIZER.vocab_size + 3, n_layers=1)


@pytest.fixture(scope="module")
def model():
    return Model(CFG, draw(seq2seq.declare(CFG)), TOKENIZER)


def test_a_text_gives_a_text_and_a_list_a_list(model):
    options = {"max_new_tokens": 5}
    one = translate(model, "ein hund", **options)
    assert isinstance(one, str)
    assert "<|endoftext|>" not in one
    assert translate(model, ["ein hund", "katze", "ein hund"], batch_size=2, **options) == [
        one,
        translate(model, "katze", **options),
        one,
    ]
    assert translate(model, [], **options) == []


def test_the_text_of_a_target_has_no_special_token():
    words = WordTokenizer.train(["ein hund"])
    ein, hund, unknown = (words.encode(word)[0] for word in ("ein", "hund", "katze"))
    targets = [[ein, unknown, hund, words.end_of_text], [words.end_of_text], [], [hund]]
    assert target_texts(Model(CFG, {}, words), targets) == ["ein hund", "", "", "hund"]


def test_seeds_decide_what_is_drawn(model):
    options = {"beam": 1, "temperature": 1.0, "max_new_tokens": 8}
    first, again, other = (translate(model, "ein hund", seed=seed, **options) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["ein", ""], "text 1: found 'no tokens', expected something to translate"),
        ("x" * 40, "text 0: found 41, expected at most 19 tokens, the end's among them"),
    ],
)
def test_a_text_that_cannot_be_translated_is_refused(model, texts, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        translate(model, texts)


def test_a_seed_that_jax_would_cut_is_refused(model):
    with pytest.raises(ValueError, match=r"^seed: found 4294967296, expected an integer from 0, below 2\*\*32$"):
        translate(model, "ein", seed=2**32)


def test_models_that_do_not_translate_are_refused(model):
    with pytest.raises(ValueError, match=r"^model: found 'decoder', expected an encoder-decoder$"):
        translate(Model(TINY, {}, TOKENIZER), "ein")
    letters = CharTokenizer.train(["ein hund"])
    with pytest.raises(ValueError, match=r"^tokenizer: found 'char', expected one with an end-of-text token"):
        translate(Model(CFG, model.params, letters), "ein")


def test_bleu_is_100_for_the_reference_and_counts_by_a_named_recipe():
    text = ["A man sits on a red bench in the park.", "Two dogs are running over the grass."]
    score, signature = bleu(text, text)
    assert score == pytest.approx(100)
    assert signature.startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    # By hand: the shares of 1 to 4 words in a row (punctuation is a word) that the references have; as long as they.
    other = ["A man sits on a blue bench in the park.", "Two cats are running over the grass."]
    precisions = 17 / 19 * 13 / 17 * 10 / 15 * 7 / 13
    assert bleu(other, text)[0] == pytest.approx(100 * precisions**0.25, rel=1e-3)
