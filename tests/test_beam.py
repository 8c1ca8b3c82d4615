"""Beam search against an exhaustive one, against a plain one without a cache, and against greedy decoding."""

import itertools
from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiers import few
from tiny import TINY, draw

from jaxgpt import seq2seq, translation
from jaxgpt.beam import advance, begin
from jaxgpt.decoding import read_sources
from jaxgpt.sampling import Sampler
from jaxgpt.translation import translate_tokens

CFG = replace(TINY, architecture="encoder-decoder", vocab_size=5, n_layers=2, n_encoder_layers=1)
CONFIGS = {
    "learned": CFG,
    "post-norm sinusoidal": replace(CFG, position="sinusoidal", norm_position="post", embedding_scale=True),
    "rotary": replace(CFG, position="rotary"),
    "relative": replace(CFG, position="relative", relative_buckets=6, relative_max_distance=9),
}
START, END = 4, 0
SOURCES = [[3, 1, 2, 2, 0], [2, 0], [1, 1, 3, 0]]
apply = jax.jit(seq2seq.apply, static_argnums=3)


@cache
def scorer(name):
    """source -> the log-probabilities that follow a target so far, by the whole model and no cache."""
    cfg = CONFIGS[name]
    params = draw(seq2seq.declare(cfg), seed=3)

    @cache
    def logprobs(source, target):
        padded = jnp.array([[START, *target] + [0] * (7 - len(target))])
        logits = np.asarray(apply(params, jnp.array([source]), padded, cfg)[0, len(target)], np.float64)
        return logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()

    return cfg, params, logprobs


def penalised(score, length, alpha, offset=5):
    return score / ((offset + length) / (offset + 1)) ** alpha


def exhaustive(logprobs, source, limit, alpha):
    """The best of all targets that end with END or at the limit."""
    best = (-np.inf, None)
    for length in range(1, limit + 1):
        for target in itertools.product(range(CFG.vocab_size), repeat=length):
            if END in target[:-1] or (target[-1] != END and length < limit):
                continue
            score = sum(logprobs(tuple(source), target[:i])[target[i]] for i in range(length))
            best = max(best, (penalised(score, length, alpha), target))
    return best


def plain(logprobs, source, limit, alpha, beams, end=END, offset=5, early_stopping="never"):
    """Beam search as a list of hypotheses; "never": carried to its very end."""
    living, ended = [(0.0, ())], []
    for step in range(limit):
        grown = [
            (score + logprobs(tuple(source), target)[token], (*target, token))
            for score, target in living
            for token in range(CFG.vocab_size)
        ]
        grown = sorted(grown, reverse=True)[: 2 * beams]
        last = step + 1 == limit
        new = [(penalised(score, step + 1, alpha, offset), t) for score, t in grown[:beams] if t[-1] == end or last]
        ended = sorted(ended + new, reverse=True)[:beams]
        living = [(score, t) for score, t in grown if t[-1] != end][:beams]
        if early_stopping != "never" and len(ended) == beams:
            ahead = penalised(living[0][0], step + 1, alpha, offset) > ended[-1][0]
            if early_stopping is True or not ahead:
                break
    return max(ended)


def run(name, limits, alpha, beams, steps, offset=5.0, **options):
    cfg, params, _ = scorer(name)
    lengths = np.array([len(source) for source in SOURCES])
    sources = np.zeros((3, 6), np.int32)
    for row, source in zip(sources, SOURCES, strict=True):
        row[: len(source)] = source
    memory = read_sources(params, sources, lengths, cfg)
    known = jnp.ones(cfg.vocab_size, bool)
    begun = begin(memory, jnp.array(limits), cfg, beams, steps)
    found = advance(params, begun, START, END, known, alpha, offset, len(limits), cfg, **options).ended
    return [
        (float(found.score[row, 0]), tuple(found.tokens[row, 0, : found.length[row, 0]].tolist())) for row in range(3)
    ]


@pytest.mark.parametrize(
    ("name", "alpha"), few([("learned", 0.0), ("learned", 2.0), *((name, 0.6) for name in CONFIGS)], 2)
)
def test_a_beam_that_holds_everything_finds_the_best_of_all(name, alpha):
    limits = [3, 2, 1]
    for (score, tokens), source, limit in zip(run(name, limits, alpha, 64, 3), SOURCES, limits, strict=True):
        wanted = exhaustive(scorer(name)[2], source, limit, alpha)
        assert tokens == wanted[1]
        assert score == pytest.approx(wanted[0], abs=2e-5)


@pytest.mark.parametrize("beams", [1, 2, 3])
@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.5])
def test_a_cached_search_that_stops_early_finds_what_a_plain_one_finds_at_its_end(alpha, beams):
    limits = [7, 5, 6]
    for (score, tokens), source, limit in zip(run("learned", limits, alpha, beams, 7), SOURCES, limits, strict=True):
        wanted = plain(scorer("learned")[2], source, limit, alpha, beams)
        assert tokens == wanted[1]
        assert score == pytest.approx(wanted[0], abs=2e-5)


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("offset", [0.0, 5.0])
def test_a_search_stops_where_a_plain_one_does(offset, early_stopping):
    found = {}
    for alpha in (0.6, 2.0):
        options = {"offset": offset, "early_stopping": early_stopping}
        found[alpha] = run("learned", [7] * 3, alpha, 2, 7, **options)
        for (score, tokens), source in zip(found[alpha], SOURCES, strict=True):
            wanted = plain(scorer("learned")[2], source, 7, alpha, 2, **options)
            assert tokens == wanted[1]
            assert score == pytest.approx(wanted[0], abs=2e-5)
    full = run("learned", [7] * 3, 0.6, 2, 7, offset=offset)
    assert all(a[0] >= b[0] for a, b in zip(full, found[0.6], strict=True))


@pytest.mark.parametrize("name", few(CONFIGS, 2))
def test_beam_one_is_greedy(name):
    cfg, params, logprobs = scorer(name)
    options = {"start": START, "end": END, "max_new_tokens": 6}
    greedy = translate_tokens(params, SOURCES, cfg, beam=1, **options)
    found = [list(tokens) for _, tokens in run(name, [6] * 3, 0.6, 1, 6)]
    assert greedy == found
    for source, target in zip(SOURCES, greedy, strict=True):
        for i, token in enumerate(target):
            assert token == logprobs(tuple(source), tuple(target[:i])).argmax()
        assert target[-1] == END or len(target) == 6
        assert END not in target[:-1]


@pytest.mark.parametrize("beam", few([3, 1]))
def test_a_translation_does_not_depend_on_the_others_nor_on_the_order(beam):
    cfg, params, _ = scorer("learned")
    options = {"start": START, "end": END, "beam": beam, "max_new_tokens": 6}
    together = translate_tokens(params, SOURCES, cfg, **options)
    assert together == [translate_tokens(params, [source], cfg, **options)[0] for source in SOURCES]
    assert together == translate_tokens(params, SOURCES[::-1], cfg, batch_size=2, **options)[::-1]


@pytest.mark.parametrize(
    ("name", "end", "beam", "size", "room"),
    few(
        [
            ("learned", 0, 3, 1, 7),
            ("learned", 0, 2, 3, 2),
            ("learned", 2, 2, 16, 3),
            ("post-norm sinusoidal", 0, 2, 3, 2),
            ("rotary", 3, 2, 3, 2),
            ("relative", 3, 2, 3, 2),
        ]
    ),
)
def test_rows_that_take_other_sources_and_a_ring_that_grows_change_nothing(name, end, beam, size, room, monkeypatch):
    cfg, params, logprobs = scorer(name)
    draws = np.random.default_rng(0)
    sources = [[*draws.integers(1, 5, draws.integers(1, 15)).tolist(), 0] for _ in range(11)]
    limits = draws.integers(1, 8, 11)
    batches = translation._batches

    def limited(*args):  # the searches end one by one
        for rows, tokens, lengths, most in batches(*args):
            yield rows, tokens, lengths, np.pad(limits[rows], (0, len(most) - len(rows)))

    monkeypatch.setattr(translation, "_batches", limited)
    monkeypatch.setattr(translation, "STEPS", room)
    options = {"length_penalty": 0.6, "early_stopping": "never", "batch_size": size, "beam": beam}
    found = translate_tokens(params, sources, cfg, start=START, end=end, **options)
    cases = zip(sources, limits, strict=True)
    assert found == [list(plain(logprobs, source, limit, 0.6, beam, end)[1]) for source, limit in cases]
    assert len({len(target) for target in found}) > 1


def test_only_known_ids_are_chosen():
    cfg, params, _ = scorer("learned")
    for beam in (1, 3):
        for ids in ((1,), (0, 2)):
            found = translate_tokens(params, SOURCES, cfg, start=START, end=END, beam=beam, ids=ids, max_new_tokens=5)
            assert {token for target in found for token in target} <= set(ids)


def test_draws_follow_the_key_and_the_model():
    cfg, params, logprobs = scorer("learned")
    options = {"start": START, "end": END, "beam": 1, "max_new_tokens": 1, "sampler": Sampler(temperature=1.0)}
    many = [SOURCES[0]] * 400
    first, again = (translate_tokens(params, many, cfg, key=jax.random.key(1), batch_size=512, **options) for _ in "ab")
    assert first == again
    shares = np.bincount([target[0] for target in first], minlength=5) / 400
    np.testing.assert_allclose(shares, np.exp(logprobs(tuple(SOURCES[0]), ())), atol=0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beam": 0}, "beam: found 0, expected a positive integer"),
        ({"length_penalty": -1.0}, "length_penalty: found -1.0, expected a number of at least 0"),
        ({"length_offset": -1.0}, "length_offset: found -1.0, expected a number of at least 0"),
        ({"max_new_tokens": 0}, "max_new_tokens: found 0, expected a positive integer"),
        ({"beam": 2, "sampler": Sampler(temperature=1.0)}, "beam: found 2, expected 1 where temperature is above 0"),
        ({"length_penalty": float("inf")}, "length_penalty: found inf, expected a number of at least 0"),
        ({"sampler": Sampler(repetition_penalty=2.0)}, "repetition_penalty: found 2.0, expected None: .*"),
        ({"end": 5}, "token id: found 5, expected 0..4"),
        ({"ids": [7]}, "token id: found 7, expected 0..4"),
        ({"sources": [[1, 9, 0]]}, "token id: found 9, expected 0..4"),
        ({"sources": [[1, 0], [0]]}, "text 1: found 'no tokens', expected something to translate"),
        ({"sources": [[1] * 20]}, "text 0: found 20, expected at most 19 tokens, the end's among them"),
    ],
)
def test_what_cannot_be_translated_is_refused(changes, message):
    cfg, params, _ = scorer("learned")
    options = {"start": START, "end": END} | changes
    with pytest.raises(ValueError, match=f"^{message}$"):
        translate_tokens(params, options.pop("sources", SOURCES), cfg, **options)
