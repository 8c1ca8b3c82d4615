"""Log-likelihoods are those of a full forward for each text, however prefixes are shared and rows packed."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_gpt import FAMILIES, GOLDEN
from tiers import few
from tiny import SCHEMES, apply, draw
from tiny import TINY as THREE_LAYERS

from jaxgpt import gpt, scoring
from jaxgpt.model import Model
from jaxgpt.scoring import classify, encode_pairs, loglikelihoods, score
from jaxgpt.tokenizers import BPETokenizer, CharTokenizer
from jaxgpt.tokenizers.framing import Framing

TINY = replace(THREE_LAYERS, n_layers=1)
CONTEXT = TINY.context_length
SHAPES = {name: replace(cfg, n_layers=2) for name, cfg in SCHEMES.items()} | {
    "window": replace(SCHEMES["rotary"], window=4, n_layers=2),
    "a kv head each": replace(TINY, n_kv_heads=None),
    "scanned": replace(TINY, scan_layers=True, n_layers=2),
}


@pytest.fixture(scope="module")
def params():
    return draw(gpt.declare(TINY))


def by_hand(params, pairs, cfg):
    """A row for each text, padded behind, where a causal model does not look; every logit in float64."""
    rows = np.zeros((len(pairs), cfg.context_length), int)
    for row, (context, continuation) in zip(rows, pairs, strict=True):
        text = [*context, *continuation][:-1]
        row[: len(text)] = text
    logits = np.asarray(apply(params, jnp.array(rows), cfg), np.float64)
    found = []
    for row, (context, continuation) in zip(logits, pairs, strict=True):
        row = row[len(context) - 1 :][: len(continuation)]
        of_tokens = row[np.arange(len(row)), list(continuation)]
        greedy = (row.argmax(-1) == list(continuation)).all()
        found.append(((of_tokens - np.log(np.exp(row).sum(-1))).sum(), greedy))
    return found


def same(found, wanted, atol=1e-5):
    np.testing.assert_allclose([one.nats for one in found], [nats for nats, _ in wanted], atol=atol, rtol=1e-6)
    assert [one.greedy for one in found] == [greedy for _, greedy in wanted]


def pairs_of(shared, seed=0):
    """Contexts of many lengths after `shared` tokens, in no order, each with continuations of one to a few tokens."""
    rng = np.random.default_rng(seed)
    start = rng.integers(0, 23, shared).tolist()
    pairs = []
    for length in (1, 5, 3, CONTEXT - shared, 2, 1, 4):
        context = start + rng.integers(0, 23, length).tolist()
        for more in (1, 3, 2):
            more = min(more, CONTEXT + 1 - len(context))
            pairs.append((context, rng.integers(0, 23, more).tolist()))
    whole = start + rng.integers(0, 23, 5).tolist()
    # One the beginning of another, the same twice, parted late, and a context that is another's with its continuation.
    pairs += [(whole, [1, 2, 3]), (whole, [1]), (whole, [1, 2, 3]), (whole, [1, 2, 4, 5]), ([*whole, 1, 2], [4, 5])]
    return pairs


@pytest.mark.parametrize("name", few(SHAPES, 4))
def test_they_are_those_of_a_full_forward(name):
    cfg = SHAPES[name]
    params, pairs = draw(gpt.declare(cfg)), pairs_of(6)
    same(loglikelihoods(params, pairs, cfg), by_hand(params, pairs, cfg))


def test_with_nothing_shared_and_in_rows_of_several_widths(params, monkeypatch):
    pairs = pairs_of(0)
    same(loglikelihoods(params, pairs, TINY), by_hand(params, pairs, TINY))
    monkeypatch.setattr(scoring, "WIDTH", 8)  # 8, 16 and 32 wide
    monkeypatch.setattr(scoring, "TOKENS", 32)  # 4, 2 and 1 of them at once
    monkeypatch.setattr(scoring, "PLACES", 4)
    scoring._predict.clear_cache()
    same(loglikelihoods(params, pairs, TINY), by_hand(params, pairs, TINY))


def test_a_greedy_text_is_said_to_be_one(params):
    text = []
    for _ in range(4):
        row = jnp.array([[3, 4, *text, *[0] * CONTEXT][:CONTEXT]])
        text.append(int(apply(params, row, TINY)[0, len(text) + 1].argmax()))
    wrong = [*text[:3], (text[3] + 1) % 23]
    pairs = [([3, 4], text), ([3, 4], text[:1]), ([3, 4], wrong), ([3, 4, *text[:2]], text[2:])]
    found = loglikelihoods(params, pairs, TINY)
    assert [one.greedy for one in found] == [True, True, False, True]
    same(found, by_hand(params, pairs, TINY))


def test_no_pair_depends_on_its_neighbours_or_their_order(params):
    pairs = pairs_of(6)
    together = loglikelihoods(params, pairs, TINY)
    same(loglikelihoods(params, pairs[::-1], TINY)[::-1], together)
    for i in (0, 10, 21):
        same(loglikelihoods(params, pairs[i : i + 1], TINY), together[i : i + 1])


def test_what_is_shared_is_read_once(params, monkeypatch):
    """Tokens through the model: the shared ones, then each text's own, less the last, which is only predicted."""
    read = []
    hidden = gpt.hidden

    def count(params, tokens, cfg, *, mask=None, tree=None, **options):
        real = mask if tree is None else tree.any(-1)
        jax.debug.callback(lambda n: read.append(int(n)), real.sum())
        return hidden(params, tokens, cfg, mask=mask, tree=tree, **options)

    monkeypatch.setattr(gpt, "hidden", count)
    jax.clear_caches()
    start = list(range(11))
    pairs = [([*start, 12, 13], [1, 2, 3]), ([*start, 12, 13], [1, 2, 4]), ([*start, 12, 13], [5]), ([*start, 7], [8])]
    loglikelihoods(params, pairs, TINY)
    jax.effects_barrier()
    assert read == [11, 5]  # 12 13 1 2, and 7
    read.clear()
    loglikelihoods(params, pairs[:3], TINY)
    jax.effects_barrier()
    assert read == [12, 3]  # 13 1 2
    jax.clear_caches()


def test_new_lengths_compile_little():
    cfg = replace(TINY, context_length=64)
    params, rng = draw(gpt.declare(cfg)), np.random.default_rng(0)
    programs = (scoring.prefill, scoring._predict)
    before = [program._cache_size() for program in programs]
    for shared, texts, longest in ((20, 9, 12), (31, 12, 9), (17, 16, 11), (25, 10, 10), (30, 13, 12), (18, 11, 11)):
        start = rng.integers(0, 23, shared).tolist()
        pairs = [(start + rng.integers(0, 23, rng.integers(6, longest)).tolist(), [word]) for word in (1, 2)] * texts
        loglikelihoods(params, pairs, cfg)
    compiled = [program._cache_size() for program in programs]
    assert np.subtract(compiled, before).tolist() == [1, 2]  # rows of 16 and of 32


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_it_is_what_transformers_computes(family):
    """By the logits of tests/golden/make.py, which are those of float64."""
    cfg, convert = FAMILIES[family]
    golden = np.load(GOLDEN / f"{family}.npz", allow_pickle=False)
    weights = {name.removeprefix("param/"): golden[name].astype("float32") for name in golden if "param/" in name}
    logits = golden["logits"].astype(np.float64)
    logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    texts = golden["inputs"].tolist()
    cuts = [(row, start, end) for row in range(len(texts)) for start, end in ((1, 2), (3, 9), (3, 5), (10, 17))]
    found = loglikelihoods(convert(weights, cfg), [(texts[row][:a], texts[row][a:b]) for row, a, b in cuts], cfg)
    for (row, a, b), one in zip(cuts, found, strict=True):
        text, places = np.array(texts[row][a:b]), np.arange(a - 1, b - 1)
        np.testing.assert_allclose(one.nats, logprobs[row, places, text].sum(), rtol=1e-6, atol=1e-5)
        assert one.greedy == (logits[row, places].argmax(-1) == text).all()


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([([1], [2]), ([], [2])], "pair 1: found 'no tokens of a context', expected at least one to start from"),
        ([([1], [])], "pair 0: found 'no tokens of a continuation', expected at least one to score"),
        (
            [([1], [2]), ([1] * 17, [2] * 4)],
            "pair 1: found '21 tokens', expected at most 20: context_length=19, and the last, which is predicted and "
            "not read",
        ),
        ([([1], [23])], "token id: found 23, expected 0..22"),
        ([([-1], [2])], "token id: found -1, expected 0..22"),
    ],
)
def test_pairs_that_can_not_be_scored_are_refused(params, pairs, message):
    with pytest.raises(ValueError, match="found") as error:
        loglikelihoods(params, pairs, TINY)
    assert str(error.value) == message


def test_a_model_that_is_no_decoder_is_refused(params):
    with pytest.raises(ValueError, match=r"model.architecture: found 'encoder', expected decoder, to score a text"):
        loglikelihoods(params, [([1], [2])], replace(TINY, architecture="encoder"))


def test_nothing_asked_is_nothing_done(params):
    assert loglikelihoods(params, [], TINY) == []


# Text.

LETTERS = "abcdefghijklmnopq \n:+-"


@pytest.fixture(scope="module")
def model(params):
    return Model(TINY, params, CharTokenizer(LETTERS))


def test_scores_are_the_log_likelihoods_of_the_tokens(model, params):
    encode = model.tokenizer.encode
    prompts, words = ["abc", "hello"], [" bad", " good", "+"]
    pairs = [(encode(prompt), encode(word)) for prompt in prompts for word in words]
    nats = np.array([one for one, _ in by_hand(params, pairs, TINY)]).reshape(2, 3)
    np.testing.assert_allclose(score(model, prompts, words), nats, atol=1e-5)
    np.testing.assert_allclose(score(model, prompts, words, per="token"), nats / [4, 5, 1], atol=1e-5)
    np.testing.assert_allclose(score(model, "abc", words), nats[0], atol=1e-5)
    first, second = score(model, prompts, [words[:1], words[1:]])  # each prompt its own
    np.testing.assert_allclose([*first, *second], [nats[0, 0], *nats[1, 1:]], atol=1e-5)
    assert score(model, [], words) == []


def test_bytes_are_those_of_the_continuation():
    tokenizer = BPETokenizer.train(["naïve café"] * 3, 262)
    cfg = replace(TINY, vocab_size=tokenizer.vocab_size)
    model = Model(cfg, draw(gpt.declare(cfg)), tokenizer)
    (whole,), (each,) = (score(model, "a", ["ïve é"], per=per) for per in ("text", "byte"))
    assert each == whole / 7


def test_white_space_before_a_continuation_is_its_own(model):
    """As lm-evaluation-harness: the prompt's trailing white space moves to the continuation."""
    tokenizer = BPETokenizer.train(["mood: good\nmood: bad\n"] * 9, 280)
    good = tokenizer.encode("mood: good")
    for prompt, continuation in (("mood:", " good"), ("mood: ", "good")):
        ((context, rest),) = encode_pairs(tokenizer, [(prompt, continuation)])
        assert [*context, *rest] == good
        assert context == tokenizer.encode("mood:")
    assert tokenizer.decode(rest) == " good"
    ((context, rest),) = encode_pairs(tokenizer, [(" \n", "good")])
    assert context == tokenizer.start
    assert tokenizer.decode(rest) == " \ngood"
    assert score(model, "abc ", ["de"], per="text") == score(model, "abc", [" de"])
    assert score(model, "abc ", ["de"], per="token") == score(model, "abc", [" de"], per="token")


def test_an_empty_prompt_starts_where_a_text_does(model, params):
    encode = model.tokenizer.encode
    (one,) = loglikelihoods(params, [(encode("\n"), encode("de"))], TINY)
    assert score(model, "", ["de"]) == [one.nats]


def test_a_label_is_the_likeliest(model):
    shots = [{"text": "ab", "label": "good"}]
    queries, labels, template = [{"text": "c"}, {"text": "dd"}], ["bad", "good"], "{text}: {label}"
    found = classify(model, queries, labels, template=template, shots=shots, separator="\n")
    for query, one in zip(queries, found, strict=True):
        wanted = score(model, f"ab: good\n{query['text']}:", [" bad", " good"])
        np.testing.assert_allclose([one.scores[label] for label in labels], wanted, atol=1e-5)
        assert one.label == labels[int(np.argmax(wanted))]
    zero_shot = classify(model, queries, labels, template=template, per="byte")
    wanted = score(model, "dd:", [" good"])[0] / 4
    np.testing.assert_allclose(zero_shot[1].scores["good"], wanted, atol=1e-5)
    assert classify(model, [], labels, template=template) == []


@pytest.mark.parametrize(
    ("prompts", "continuations", "options", "message"),
    [
        (["a", "b"], [["c"], ["d", ""]], {}, "prompt 1, continuation 1: found '', expected at least one character"),
        ("a", "bc", {}, "continuations: found 'bc', expected a list of texts"),
        ("a", [], {}, "continuations of prompt 0: found 'none', expected at least one"),
        (["a", "b"], [["c"], []], {}, "continuations of prompt 1: found 'none', expected at least one"),
        (["a", "b"], [["c"]], {}, "continuations: found '1 lists', expected 2, as prompts"),
        (["a", "b" * 18], ["c", "dde"], {}, "prompt 1, continuation 1: found '21 tokens', expected at most 20"),
        ("a", ["b"], {"per": "letter"}, "per: found 'letter', expected text, token or byte"),
    ],
)
def test_texts_that_can_not_be_scored_are_refused(model, prompts, continuations, options, message):
    with pytest.raises(ValueError, match="found") as error:
        score(model, prompts, continuations, **options)
    assert str(error.value).startswith(message)


def test_prompts_are_framed_as_texts_that_are_gone_on_with():
    class Framed(CharTokenizer):
        framing = Framing(single=(((2,), 0), ("A", 0)))

    pairs = encode_pairs(Framed("abc"), [("ab", "ba"), ("", "a")])
    assert pairs == [([2, 0, 1], [1, 0]), ([2], [0])]
