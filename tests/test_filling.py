"""Blanks filled in: equal to the formula by hand, alone or in a batch, and what is refused."""

from dataclasses import asdict, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import draw

from jaxgpt import Model, bert, fill_mask, filling
from jaxgpt.config import ModelConfig
from jaxgpt.filling import Candidate
from jaxgpt.tokenizers import BPETokenizer, CharTokenizer, wordpiece

TEXT = "the quick brown fox jumps over the lazy dog . the cat sat on the mat . a dog sat ."
TOKENIZER = wordpiece.train([TEXT] * 3, 90)
CFG = ModelConfig(
    architecture="encoder", vocab_size=TOKENIZER.vocab_size + 3, context_length=29, d_model=14, n_heads=2, n_layers=1,
    d_ff=17, n_segments=2, norm_position="post", embedding_norm=True,
)  # fmt: skip
apply = jax.jit(bert.apply, static_argnums=2)
MODEL = Model(CFG, draw(bert.declare(CFG)), TOKENIZER)


def by_hand(text: str, blank: int, top_k: int) -> list[Candidate]:
    """One row without padding, every logit, a sort."""
    cls, sep, mask = (TOKENIZER.special_tokens[name] for name in ("[CLS]", "[SEP]", "[MASK]"))
    parts = [TOKENIZER.encode(part) for part in text.split("[MASK]")]
    ids = parts[0] + [token for part in parts[1:] for token in [mask, *part]]
    place = [i for i, token in enumerate(ids) if token == mask][blank]
    logits = np.asarray(apply(MODEL.params, jnp.array([[cls, *ids, sep]]), CFG), np.float64)[0, place + 1]
    logits = logits[: TOKENIZER.vocab_size]
    shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    best = np.argsort(-shares)[:top_k]
    filled = [TOKENIZER.decode([*ids[:place], token, *ids[place + 1 :]]) for token in best]
    return [
        Candidate(int(token), TOKENIZER.decode([token]), shares[token], text)
        for token, text in zip(best, filled, strict=True)
    ]


def same(found: list[Candidate], wanted: list[Candidate]):
    for one, other in zip(found, wanted, strict=True):
        assert asdict(one) | {"probability": 0} == asdict(other) | {"probability": 0}
        np.testing.assert_allclose(one.probability, other.probability, rtol=2e-5)


def test_each_blank_has_the_likeliest_tokens_and_the_text_with_them():
    text = "the [MASK] sat on the [MASK] ."
    found = fill_mask(MODEL, text, top_k=4)
    assert len(found) == 2
    for i, blank in enumerate(found):
        same(blank, by_hand(text, i, 4))
    assert found[0][0].filled.count("[MASK]") == 1
    words = {one.text: one.filled for one in fill_mask(MODEL, text, top_k=TOKENIZER.vocab_size)[0]}
    assert words["cat"] == "the cat sat on the [MASK]."
    assert words["##t"] == "thet sat on the [MASK]."


def test_texts_get_together_what_each_gets_alone(monkeypatch):
    """Rows of many lengths, more than a batch, out of order, with one to three blanks."""
    monkeypatch.setattr(filling, "BATCH", 4)
    texts = [
        "[MASK]",
        "the quick brown fox [MASK] over the lazy [MASK] . the cat sat .",
        "the [MASK]",
        "[MASK] [MASK] a",
    ]
    texts += [f"{'dog ' * i}[MASK] [MASK] [MASK] fox" for i in (0, 12, 3, 5)]
    for text, blanks in zip(texts, fill_mask(MODEL, texts, top_k=2), strict=True):
        assert len(blanks) == text.count("[MASK]")
        for i, blank in enumerate(blanks):
            same(blank, by_hand(text, i, 2))
    assert fill_mask(MODEL, []) == []
    assert fill_mask(MODEL, [texts[2]], top_k=3) == [fill_mask(MODEL, texts[2], top_k=3)]


def test_all_probabilities_are_one_and_no_id_beyond_the_tokenizer_has_any():
    (blank,) = fill_mask(MODEL, "the [MASK] sat .", top_k=TOKENIZER.vocab_size)
    assert sorted(one.token for one in blank) == list(range(TOKENIZER.vocab_size))
    assert sum(one.probability for one in blank) == pytest.approx(1, abs=1e-5)


def test_only_the_mask_token_is_special_in_a_text():
    (plain,) = fill_mask(MODEL, "[CLS] the [MASK] [SEP]", top_k=1)
    assert not {"[CLS]", "[SEP]"} & set(plain[0].filled.split())


def test_a_new_text_of_a_like_length_compiles_nothing():
    fill_mask(MODEL, ["the [MASK] sat", "the cat [MASK]", "a dog [MASK]"])
    compiled = filling._likeliest._cache_size()
    fill_mask(MODEL, ["the fox sat on the [MASK] .", "[MASK]", "[MASK] sat", "[MASK] dog"])
    assert filling._likeliest._cache_size() == compiled


@pytest.mark.parametrize(
    ("text", "top_k", "message"),
    [
        (["the [MASK]", "the cat"], 5, r"text 1: found 'the cat', expected \[MASK\] in it"),
        ("", 5, r"text 0: found '', expected \[MASK\] in it"),
        ("the <mask>", 5, r"expected \[MASK\] in it"),
        (
            "the " * 27 + "[MASK]",
            5,
            "text 0: found 30 tokens, expected at most 29, 2 that begin and end it among them",
        ),
        ("[MASK]", 0, f"top_k: found 0, expected 1 to {TOKENIZER.vocab_size}, the number of tokens"),
        ("[MASK]", 1000, "top_k: found 1000"),
    ],
)
def test_what_can_not_be_filled_in_is_refused(text, top_k, message):
    with pytest.raises(ValueError, match=message):
        fill_mask(MODEL, text, top_k=top_k)
    assert len(fill_mask(MODEL, "the " * 26 + "[MASK]")) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "decoder", "n_segments": 0}, "model.architecture: found 'decoder', expected encoder"),
        ({"head": "none"}, "model.head: found 'none', expected lm or pretraining, to fill in tokens"),
        ({"head": "token", "n_classes": 3}, "model.head: found 'token', expected lm or pretraining"),
    ],
)
def test_a_model_that_fills_in_nothing_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        fill_mask(replace(MODEL, config=replace(CFG, **changes)), "[MASK]")


def test_a_tokenizer_without_a_mask_token_is_refused():
    for kind, tokenizer in (("char", CharTokenizer.train(["[MASK]"])), ("bpe", BPETokenizer.train(["a"], 257))):
        model = Model(replace(CFG, vocab_size=300), MODEL.params, tokenizer)
        with pytest.raises(ValueError, match=f"tokenizer: found '{kind}', expected one with a mask token"):
            fill_mask(model, "[MASK]")


def test_the_head_for_pretraining_fills_in_as_the_head_for_words():
    cfg = replace(CFG, head="pretraining")
    params = draw(bert.declare(cfg)) | MODEL.params
    assert fill_mask(Model(cfg, params, TOKENIZER), "a [MASK]") == fill_mask(MODEL, "a [MASK]")
