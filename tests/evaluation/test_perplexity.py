"""Perplexity: every token once, in the window that the rule says; as a plain forward and transformers have it."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from tiers import few
from tiny import SCHEMES, TINY, apply, draw

import jaxgpt
from jaxgpt import gpt
from jaxgpt.config import RopeScaling
from jaxgpt.evaluation import perplexity as module
from jaxgpt.evaluation.perplexity import perplexity
from jaxgpt.model import Model
from jaxgpt.tokenizers import BPETokenizer, CharTokenizer
from jaxgpt.tokenizers.framing import Framing

CFG = replace(TINY, n_layers=1)
LONGROPE = RopeScaling("longrope", magnitude=1.2, original_length=12, short=(1.0, 2.0), long=(3.0, 5.0))
LETTERS = [chr(ord("a") + i) for i in range(23)]


class Framed(CharTokenizer):
    """One that begins every text with its first letter."""

    framing = Framing(single=(((0,), 0), ("A", 0)))


def model_of(cfg=CFG, tokenizer=None):
    return Model(cfg, draw(gpt.declare(cfg)), tokenizer or CharTokenizer(LETTERS))


def text_of(n, seed=0):
    return "".join(np.random.default_rng(seed).choice(LETTERS, n))


def by_the_rule(model, ids, length, stride):
    """-log p of every token but the first, in float64: a window at a time, as the page's code moves it."""
    found, done = {}, 1
    for start in range(0, len(ids), stride):
        end = min(start + length + 1, len(ids))
        logits = np.asarray(apply(model.params, jnp.array([ids[start : end - 1]]), model.config)[0], np.float64)
        for place in range(done, end):
            assert place not in found
            row = logits[place - start - 1]
            found[place] = np.log(np.exp(row).sum()) - row[ids[place]]
        done = end
        if end == len(ids):
            return [found[place] for place in range(1, len(ids))]


def same(found, nats, n_bytes):
    assert found.tokens == len(nats)
    assert found.bytes == n_bytes
    np.testing.assert_allclose(found.nats, np.mean(nats), rtol=2e-6)
    np.testing.assert_allclose(found.perplexity, np.exp(np.mean(nats)), rtol=1e-5)
    np.testing.assert_allclose(found.bits_per_byte, np.sum(nats) / np.log(2) / n_bytes, rtol=2e-6)


@pytest.mark.parametrize(
    ("n", "length", "stride"),
    few(
        [
            (41, 8, 3),  # a stride that does not divide
            (2, 8, 4),  # one token to score
            (6, 8, 4),  # shorter than a window
            (9, 8, 4),  # exactly one
            (10, 8, 4),  # and one token more
            (40, 8, 1),  # every token in a window of its own
            (40, 8, 8),  # no window reads what another has read
            (41, 1, 1),  # nothing but the token before
            (60, 19, 7),
        ],
        5,
    ),
)
def test_every_token_counts_once_in_the_window_of_the_rule(n, length, stride):
    model, text = model_of(), text_of(n)
    nats = by_the_rule(model, model.tokenizer.encode(text), length, stride)
    for batch_size in (1, 3, 16):
        found = perplexity(model, text, context_length=length, stride=stride, batch_size=batch_size)
        same(found, nats, n)


def test_by_default_windows_are_the_models_and_half_apart():
    model, text = model_of(), text_of(70)
    assert perplexity(model, text) == perplexity(model, text, context_length=19, stride=9)


def test_a_start_token_is_read_and_all_of_the_text_scored():
    model, text = model_of(tokenizer=Framed(LETTERS)), text_of(30)
    same(perplexity(model, text), by_the_rule(model, [0, *model.tokenizer.encode(text)], 19, 9), 30)
    same(perplexity(model, "b"), by_the_rule(model, [0, 1], 19, 9), 1)


def test_several_texts_are_apart():
    model, texts = model_of(), [text_of(n, seed=n) for n in (3, 31, 12)]
    nats = [nats for text in texts for nats in by_the_rule(model, model.tokenizer.encode(text), 19, 9)]
    same(perplexity(model, texts), nats, 46)


def test_bytes_are_those_of_utf8():
    tokenizer = CharTokenizer("aé€")
    model = model_of(replace(CFG, vocab_size=3), tokenizer)
    same(perplexity(model, "aé€é"), by_the_rule(model, [0, 1, 2, 1], 19, 9), 8)


def test_special_tokens_of_a_text_are_read_as_such():
    tokenizer = BPETokenizer.train(["ab"], 257)
    model = model_of(replace(CFG, vocab_size=257), tokenizer)
    ids = [97, tokenizer.end_of_text, 98]
    assert tokenizer.encode("a<|endoftext|>b", allowed_special="all") == ids
    same(perplexity(model, "a<|endoftext|>b"), by_the_rule(model, ids, 19, 9), 15)


@pytest.mark.parametrize("cfg", [replace(SCHEMES["rotary"], rope_scaling=LONGROPE), replace(TINY, window=4)])
def test_padding_and_repeated_windows_change_nothing(cfg):
    """longrope asks how long a row is, and a repeated first window is as long as the first."""
    model = model_of(replace(cfg, n_layers=1))
    for n in (10, 16, 45):
        text = text_of(n)
        same(perplexity(model, text), by_the_rule(model, model.tokenizer.encode(text), 19, 9), n)


def test_places_in_several_parts(monkeypatch):
    model, text = model_of(), text_of(80)
    whole = perplexity(model, text)
    monkeypatch.setattr(module, "PLACES", 5)
    module._nats.clear_cache()
    np.testing.assert_allclose(perplexity(model, text), whole, rtol=1e-6)


def test_all_batches_are_one_program():
    module._nats.clear_cache()
    model = model_of()
    perplexity(model, text_of(200), batch_size=3)
    perplexity(model, text_of(151), batch_size=3)
    assert module._nats._cache_size() == 1


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("abc", {"stride": 0}, r"stride: found 0, expected 1\.\.19, the context_length"),
        ("abc", {"context_length": 8, "stride": 9}, r"stride: found 9, expected 1\.\.8"),
        ("abc", {"context_length": 20}, r"context_length: found 20, expected 1\.\.19"),
        ("abc", {"batch_size": 0}, "batch_size: found 0, expected a positive integer"),
        ("", {}, "text 0: found '0 tokens', expected at least 2"),
        (["abc", "a"], {}, "text 1: found '1 tokens', expected at least 2"),
        ([], {}, "texts: found 'none', expected at least one"),
    ],
)
def test_what_can_not_be_used_is_refused(text, options, message):
    with pytest.raises(ValueError, match=message):
        perplexity(model_of(), text, **options)


def test_a_model_that_predicts_no_text_is_refused():
    cfg = replace(CFG, head="sequence", n_classes=2)
    with pytest.raises(ValueError, match=r"model\.head: found 'sequence', expected lm"):
        perplexity(model_of(cfg), "abc")


def of_transformers(folder, text, max_length, stride):
    """The code of transformers' page, but for the sum, which is exact, and a last token that no model need read."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    encodings = tokenizer(text, return_tensors="pt")
    seq_len = encodings.input_ids.size(1)
    nll_sum, n_tokens, prev_end_loc = 0.0, 0, 0
    for begin_loc in range(0, seq_len, stride):
        end_loc = min(begin_loc + max_length, seq_len)
        trg_len = end_loc - prev_end_loc
        input_ids = encodings.input_ids[:, begin_loc:end_loc]
        target_ids = input_ids.clone()
        target_ids[:, :-trg_len] = -100
        with torch.no_grad():
            logits = model(input_ids[:, :-1]).logits[0].double()
        loss = torch.nn.CrossEntropyLoss(reduction="sum", ignore_index=-100)
        nll_sum += loss(logits, target_ids[0, 1:]).item()
        n_tokens += (target_ids[0, 1:] != -100).sum().item()
        prev_end_loc = end_loc
        if end_loc == seq_len:
            break
    return nll_sum / n_tokens, n_tokens


@pytest.mark.parametrize(
    ("characters", "stride"), [(4000, 256), *(pytest.param(None, s, marks=pytest.mark.slow) for s in (256, 512))]
)
def test_wikitext_is_as_likely_as_in_transformers(shared_data, characters, stride):
    """A real model on WikiText-2, of which many a word is <unk>."""
    folder, text = shared_data / "stories260K", (shared_data / "wikitext2" / "valid.txt").read_text()[:characters]
    found = perplexity(jaxgpt.load(folder), text, stride=stride)
    nats, tokens = of_transformers(folder, text, 513, stride)
    assert found.tokens == tokens
    assert found.bytes == len(text.encode())
    np.testing.assert_allclose(found.nats, nats, rtol=2e-6)
    np.testing.assert_allclose(found.perplexity, np.exp(nats), rtol=1e-5)
