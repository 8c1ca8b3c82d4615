"""Generation is the naive loop of full forwards, only faster: in every shape, past the context, and as text."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiktoken
from tiers import few
from tiny import SCHEMES, draw
from tiny import TINY as THREE_LAYERS

from jaxgpt import decoding, generation, gpt, sampling
from jaxgpt.generation import generate, generate_tokens, pieces, row_keys, stream
from jaxgpt.model import GenerationDefaults, Model, Settings, prepare
from jaxgpt.sampling import Sampler
from jaxgpt.tokenizers import BPETokenizer, CharTokenizer, WordTokenizer

TINY = replace(THREE_LAYERS, n_layers=1)
CONTEXT = TINY.context_length
PROMPTS = [[1, 2, 3], [4] * CONTEXT, [5, 6, 7, 8, 9, 10, 11], [22], list(range(13))]
SHAPES = {name: replace(cfg, n_layers=2) for name, cfg in SCHEMES.items()} | {
    "window": replace(SCHEMES["rotary"], window=4, n_layers=2),
    "a kv head each": replace(TINY, n_kv_heads=None, context_length=8),
    "context of one": replace(TINY, context_length=1),
    "scanned": replace(TINY, scan_layers=True, n_layers=2),
}
DRAWN = Sampler(temperature=1.0)
LONG = 31  # new tokens: the context is full twice, even from 3 tokens


def parameters(cfg):
    return draw(gpt.declare(cfg))


@pytest.fixture(scope="module")
def params():
    return parameters(TINY)


@functools.partial(jax.jit, static_argnames="cfg")
def naive_step(params, padded, length, key, count, seen, settings, cfg):
    logits = gpt.apply(params, padded, cfg)[:, length - 1]
    token = sampling.choose(jax.random.fold_in(key, count)[None], logits, settings, seen)[0]
    return token, jax.nn.log_softmax(logits)[0, token]


def naive(params, prompt, cfg, new, sampler=DRAWN):
    """A full forward for every token, over what the rule leaves of the text: the specification of the fast loop.

    At every multiple of the dropped half past the context, a text starts anew from its younger half.
    """
    context, dropped = cfg.context_length, cfg.context_length - cfg.context_length // 2
    text, logprobs = list(prompt), []
    row_key = generation.row_keys(jax.random.key(0), [text])[0]
    for count in range(new):
        start = 0 if len(text) <= context else dropped * -(-(len(text) - context) // dropped)
        padded = np.array([(text[start:] + [0] * context)[:context]])
        seen = np.isin(np.arange(cfg.vocab_size), text)[None]
        token, logprob = naive_step(params, padded, len(text) - start, row_key, count, seen, sampler.settings(), cfg)
        text.append(int(token))
        logprobs.append(float(logprob))
    return text[len(prompt) :], logprobs


@pytest.mark.parametrize("name", few(SHAPES, 3))
def test_ragged_prompts_past_the_context_are_the_naive_loop(name):
    cfg = SHAPES[name]
    params, prompts = parameters(cfg), [prompt[: cfg.context_length] for prompt in PROMPTS]
    tokens, logprobs = generate_tokens(params, prompts, cfg, max_new_tokens=LONG, sampler=DRAWN, logprobs=True)
    for i, prompt in enumerate(prompts[:3]):
        if prompt in prompts[:i]:
            continue  # its second sample
        expected, expected_logprobs = naive(params, prompt, cfg, LONG)
        assert tokens[i] == expected
        np.testing.assert_allclose(logprobs[i], expected_logprobs, atol=1e-4)


@pytest.mark.parametrize(
    "sampler",
    [Sampler(), Sampler(repetition_penalty=1.4), Sampler(0.8, top_k=9, top_p=0.8, min_p=0.05, repetition_penalty=1.2)],
)
def test_every_sampler_is_the_naive_loop(params, sampler):
    tokens, logprobs = generate_tokens(params, PROMPTS, TINY, max_new_tokens=20, sampler=sampler, logprobs=True)
    for i in (0, 1):
        expected, expected_logprobs = naive(params, PROMPTS[i], TINY, 20, sampler)
        assert tokens[i] == expected
        np.testing.assert_allclose(logprobs[i], expected_logprobs, atol=1e-4)  # of the model, not of the sampler


def test_a_row_is_the_same_alone_and_in_any_batch(params):
    def run(prompts):
        return generate_tokens(params, prompts, TINY, max_new_tokens=33, sampler=DRAWN)

    together = run(PROMPTS)
    assert [run([prompt])[0] for prompt in PROMPTS] == together
    assert run(PROMPTS[::-1]) == together[::-1]
    assert len({tuple(row) for row in together}) == len(PROMPTS)


def test_samples_are_the_same_as_the_prompt_several_times_and_differ(params):
    def run(prompts, **options):
        return generate_tokens(params, prompts, TINY, max_new_tokens=12, sampler=DRAWN, **options)

    samples = run(PROMPTS[:1], num_samples=5)
    assert samples == run([PROMPTS[0]] * 5)
    assert samples[0] == run(PROMPTS)[0]
    assert len({tuple(row) for row in samples}) == 5


def test_a_key_decides_all(params):
    def run(seed):
        return generate_tokens(params, PROMPTS, TINY, max_new_tokens=12, sampler=DRAWN, key=jax.random.key(seed))

    assert run(5) == run(5) != run(6)


def test_a_row_ends_with_its_first_end_token(params):
    free = generate_tokens(params, PROMPTS, TINY, max_new_tokens=40, sampler=DRAWN)
    ends = {free[0][6], free[1][9]}
    ended, logprobs = generate_tokens(
        params, PROMPTS, TINY, max_new_tokens=40, sampler=DRAWN, end_tokens=ends, logprobs=True
    )
    for row, whole, scores in zip(ended, free, logprobs, strict=True):
        stops = [i for i, token in enumerate(whole) if token in ends]
        assert row == whole[: stops[0] + 1 if stops else 40]
        assert len(scores) == len(row)


def first_state(params, prompts, ends, slots=19):
    width = max(map(len, prompts))
    lengths = np.array([len(prompt) for prompt in prompts])
    logits, cache = decoding.prefill(params, generation._right(prompts, width), lengths, TINY, slots)
    rows = decoding.Rows(
        jnp.full(len(prompts), -1),
        jnp.zeros(len(prompts), bool),
        generation.row_keys(jax.random.key(0), prompts),
        jnp.zeros(len(prompts), int),
        None,
    )
    is_end = jnp.zeros(23, bool).at[jnp.array(ends, int)].set(True)
    return cache, decoding.choose_first(rows, logits, {"temperature": 1.0}, is_end, jnp.ones(23, bool))[0], is_end


def test_the_compiled_loop_stops_when_all_rows_have_ended(params):
    ready, prompts = prepare(params, "float32"), [[1, 2, 3], [4, 5]]
    free = generate_tokens(params, prompts, TINY, max_new_tokens=10, sampler=DRAWN)
    ends = [free[0][2], free[1][4]]
    needed = max(next(i for i, token in enumerate(row) if token in ends) for row in free)
    cache, rows, is_end = first_state(ready, prompts, ends)
    cache, rows, tokens, _ = decoding.decode_chunk(
        ready, cache, rows, {"temperature": 1.0}, is_end, jnp.ones(23, bool), 15, TINY
    )
    assert rows.ended.all()
    assert int(cache.used) == 3 + needed
    assert (tokens[:, needed:] == -1).all()


def test_the_decode_step_writes_its_cache_in_place(params):
    ready = prepare(params, "float32")
    cache, rows, is_end = first_state(ready, [[1, 2, 3]], [])
    before = [x.unsafe_buffer_pointer() for x in cache.key]
    after, *_ = decoding.decode_chunk(ready, cache, rows, {"temperature": 1.0}, is_end, jnp.ones(23, bool), 4, TINY)
    assert all(x.is_deleted() for x in (*cache.key, *cache.value))
    assert [x.unsafe_buffer_pointer() for x in after.key] == before


def test_prepared_parameters_are_taken_as_they_are(params):
    ready = prepare(params, "float32")
    assert prepare(ready, "float32") is ready
    assert generate_tokens(ready, PROMPTS, TINY, max_new_tokens=5) == generate_tokens(
        params, PROMPTS, TINY, max_new_tokens=5
    )


def test_new_lengths_and_numbers_compile_nothing():
    cfg = replace(TINY, context_length=64)
    params = parameters(cfg)
    programs = (decoding.prefill, decoding.choose_first, decoding.decode_chunk)
    generate_tokens(params, [[1] * 5], cfg, max_new_tokens=17, sampler=Sampler(1.0, top_k=5))
    compiled = [program._cache_size() for program in programs]
    for length, new, k, end in ((16, 17, 3, 7), (1, 9, 2, 8), (9, 12, 23, 9)):
        sampler = Sampler(0.3 * k, top_k=k)
        generate_tokens(params, [[2] * length], cfg, max_new_tokens=new, sampler=sampler, end_tokens=[end, end + 1])
    assert [program._cache_size() for program in programs] == compiled


def test_computes_in_the_dtype_of_the_config(params):
    cfg = replace(TINY, dtype="bfloat16")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(prepare(params, cfg.dtype))} == {"bfloat16"}
    (tokens,), (logprobs,) = generate_tokens(params, [[1, 2, 3]], cfg, max_new_tokens=8, logprobs=True)
    logits = jax.jit(gpt.apply, static_argnums=2)(params, jnp.array([[1, 2, 3, *tokens]]), cfg)[0]
    expected = jax.nn.log_softmax(logits)[np.arange(2, 10), np.array(tokens)]
    np.testing.assert_allclose(logprobs, expected, atol=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompts": [[1], []]}, "prompt 1: found no tokens, expected at least one to start from"),
        (
            {"cfg": replace(TINY, architecture="encoder")},
            "model.architecture: found 'encoder', expected decoder, to go on with a text",
        ),
        ({"prompts": [[1] * 20]}, "prompt 0: found 20 tokens, expected at most 19"),
        ({"prompts": [[1, 23]]}, "token id: found 23, expected 0..22"),
        ({"prompts": [[-1]]}, "token id: found -1, expected 0..22"),
        ({"end_tokens": [70]}, "token id: found 70, expected 0..22"),
        ({"max_new_tokens": -1}, "max_new_tokens: found -1, expected at least 0"),
        ({"num_samples": 0}, "num_samples: found 0, expected at least 1"),
    ],
)
def test_what_can_not_be_generated_is_refused(params, arguments, message):
    with pytest.raises(ValueError, match="found") as error:
        generate_tokens(params, **{"prompts": [[1]], "cfg": TINY, "max_new_tokens": 1} | arguments)
    assert str(error.value) == message


def test_nothing_asked_is_nothing_done(params):
    assert generate_tokens(params, [], TINY, max_new_tokens=5) == []
    assert generate_tokens(params, PROMPTS, TINY, max_new_tokens=0) == [[]] * 5


# Text.

LETTERS = "abcdefghijklmnopqrstuvw"


@pytest.fixture(scope="module")
def model(params):
    return Model(TINY, params, CharTokenizer(LETTERS))


def text_of(model, prompt, **options):
    return generate(model, prompt, max_new_tokens=45, temperature=1.0, **options)


def test_on_a_cpu_a_model_of_low_precision_decodes_in_float32(model, monkeypatch):
    halves = jax.tree.map(lambda x: x.astype("bfloat16"), model.params)
    low = Model(replace(TINY, dtype="bfloat16"), halves, model.tokenizer)
    wide = Model(TINY, jax.tree.map(lambda x: x.astype("float32"), halves), model.tokenizer)
    assert low.inference_config == TINY
    assert text_of(low, "abc") == text_of(wide, "abc")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    there = Model(low.config, halves, model.tokenizer)
    assert there.inference_config == low.config
    assert {leaf.dtype.name for leaf in jax.tree.leaves(there.inference_params)} == {"bfloat16"}


def test_text_is_the_text_of_the_tokens(model, params):
    prompts = ["abc", "hello", "w"]
    ids = [model.tokenizer.encode(prompt) for prompt in prompts]
    tokens = generate_tokens(params, ids, TINY, max_new_tokens=45, sampler=DRAWN, key=jax.random.key(0))
    texts = [model.tokenizer.decode(row) for row in tokens]
    assert text_of(model, prompts) == texts
    assert text_of(model, "hello") == texts[1]
    assert text_of(model, "hello", seed=1) != texts[1]


def test_samples_are_listed_by_prompt(model):
    (samples,) = text_of(model, ["abc"], num_samples=5)
    assert samples == text_of(model, "abc", num_samples=5)
    assert samples[0] == text_of(model, "abc") != samples[1]
    assert text_of(model, ["abc", "d", "abc"])[2] == samples[1]


@pytest.mark.parametrize("at", [0, 1, 3, 4, 5, 20, 43])
@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_stop_string_is_cut_off_wherever_it_lies(model, at, length):
    whole = text_of(model, "abc")
    stop = whole[at : at + length]
    expected = whole[: whole.find(stop)]
    assert text_of(model, "abc", stop=stop) == expected
    assert text_of(model, "abc", stop=["zzz", stop]) == expected
    assert "".join(stream(model, "abc", max_new_tokens=45, temperature=1.0, stop=stop)) == expected


def bytes_model(text="naïve café — 東京 🙂 "):
    tokenizer = BPETokenizer.train([text] * 3, 270)
    cfg = replace(TINY, vocab_size=tokenizer.vocab_size + 5)  # a padded vocabulary, as published models have
    return Model(cfg, parameters(cfg), tokenizer)


def test_each_of_a_models_end_tokens_ends_its_text_and_its_banned_tokens_are_never_chosen(params):
    def text(**said):
        settings = Settings(generation=GenerationDefaults(**said))
        return text_of(Model(TINY, params, CharTokenizer(LETTERS), settings), ["abc", "d"])

    free = text()
    ends = (free[0][5], free[1][11])
    ids = tuple(LETTERS.index(letter) for letter in ends)
    assert text(end_tokens=ids) == [row[: min(row.find(end) % 99 for end in ends)] for row in free]
    assert text(end_tokens=ids[:1]) == [row.partition(ends[0])[0] for row in free]
    assert text(end_tokens=ids)[0] != free[0] != text(end_tokens=ids[1:])[0]
    other = text(banned_tokens=ids)
    assert not set(ends) & set("".join(other))
    allowed = [i for i in range(len(LETTERS)) if i not in ids]
    tokens = generate_tokens(
        params, [[0, 1, 2], [3]], TINY, max_new_tokens=45, sampler=DRAWN, key=jax.random.key(0), ids=allowed
    )
    assert other == ["".join(LETTERS[i] for i in row) for row in tokens]


def test_a_model_that_does_not_say_ends_at_the_tokenizers_end_of_text(params):
    tokenizer = WordTokenizer([f"w{i}" for i in range(21)])
    said = Settings(generation=GenerationDefaults(end_tokens=(3,)))
    silent, saying = Model(TINY, params, tokenizer), Model(TINY, params, tokenizer, said)
    assert silent.generation.end_tokens == (tokenizer.end_of_text,)
    assert saying.generation.end_tokens == (3,)


def test_pieces_alone_are_the_new_tokens_without_special_ones_through_the_stop_string(params):
    tokenizer = WordTokenizer([f"w{i}" for i in range(21)])
    model = Model(TINY, params, tokenizer)
    prompt = tokenizer.encode("w3 w4")
    keys = row_keys(jax.random.key(0), [prompt])
    (tokens,) = generate_tokens(params, [prompt], TINY, max_new_tokens=45, sampler=DRAWN, key=jax.random.key(0))
    special = set(tokenizer.special_tokens.values())
    assert special & set(tokens)
    expected = tokenizer.decode(token for token in tokens if token not in special)

    def alone(**options):
        options = {"max_new_tokens": 45, "sampler": DRAWN, "end_tokens": ()} | options
        return "".join(row for (row,) in pieces(model, [prompt], keys, alone=True, **options))

    assert alone() == expected
    assert not expected.startswith(" ")
    words = expected.split(" ")
    stop = words[9][:-1]
    assert alone(stop=[stop]) == " ".join(words[: 1 + next(i for i, word in enumerate(words) if stop in word)])


def test_no_piece_ends_within_a_character():
    model = bytes_model()
    for seed in range(3):
        options = {"max_new_tokens": 60, "temperature": 1.0, "seed": seed}
        pieces = list(stream(model, "café", **options))
        assert "".join(pieces) == generate(model, "café", **options)
        assert len(pieces) > 5


def gaps_model():
    """Ids 0 to 255, 257 and 276 stand for tokens, as in tiktoken's larger encodings some ids stand for none."""
    ranks = {bytes([i]): i for i in range(256)} | {b"na": 257}
    encoding = tiktoken.Encoding(
        "gaps", pat_str=r"\S+|\s+", mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 276}
    )
    cfg = replace(TINY, vocab_size=280)
    return Model(cfg, parameters(cfg), BPETokenizer(encoding))


@pytest.mark.parametrize("make", few([bytes_model, gaps_model]))
def test_ids_that_the_tokenizer_lacks_are_never_chosen(make):
    model = make()
    table = model.params["embedding"]["token"]
    lacking = np.setdiff1d(np.arange(len(table)), list(model.tokenizer.ids))
    assert len(lacking) >= 5
    params = model.params | {"embedding": model.params["embedding"] | {"token": table.at[lacking].multiply(30)}}
    loud = Model(model.config, params, model.tokenizer)  # its likeliest ids are those lacking
    for temperature in (0.0, 2.0):
        options = {"max_new_tokens": 30, "temperature": temperature}
        assert "".join(stream(loud, "naïve", **options)) == generate(loud, "naïve", **options)
    tokens = generate_tokens(params, [[1, 2]] * 9, model.config, max_new_tokens=9, sampler=DRAWN)
    assert np.isin(lacking, tokens).any()  # but for `ids`, they are


def test_words_continue_with_a_space_and_an_empty_prompt_starts_from_end_of_text(params):
    tokenizer = WordTokenizer([f"w{i}" for i in range(21)])
    model = Model(TINY, params, tokenizer)
    assert text_of(model, "w3 w4")[:2] == " w"
    ids = generate_tokens(
        params,
        [[tokenizer.end_of_text]],
        TINY,
        max_new_tokens=45,
        sampler=DRAWN,
        end_tokens=[tokenizer.end_of_text],
    )[0]
    expected = tokenizer.decode(token for token in ids if token != tokenizer.end_of_text)
    assert text_of(model, "").removeprefix(" ") == expected


def test_an_empty_prompt_starts_where_the_samples_of_training_do(model):
    assert text_of(model, "") == text_of(model, "a")  # no end of text, no line break: the lowest id
    lines = Model(TINY, model.params, CharTokenizer("\n" + LETTERS[1:]))
    assert text_of(lines, "") == text_of(lines, "\n")
    assert "".join(stream(lines, "", max_new_tokens=45, temperature=1.0)) == text_of(lines, "")


def test_numbers_of_any_size_that_make_sense_work(model):
    assert text_of(model, "abc", top_k=3_000_000_000) == text_of(model, "abc")
    assert len({text_of(model, "abc", seed=seed) for seed in (0, 1, 2**32 - 1)}) == 3


def test_text_that_can_not_be_made_is_refused_at_the_call(model):
    with pytest.raises(ValueError, match="stop: found ''"):
        stream(model, "a", max_new_tokens=1, stop=["b", ""])
    for seed in (2**32, 99999999999999999999, -1):
        with pytest.raises(ValueError, match=f"seed: found {seed}, expected an integer from 0, below"):
            generate(model, "a", max_new_tokens=1, seed=seed)
    with pytest.raises(ValueError, match="prompt 1: found 20 tokens, expected at most 19"):
        generate(model, ["a", "a" * 20], max_new_tokens=1)
    with pytest.raises(ValueError, match="top_p: found 0, expected a number in"):
        stream(model, "a", max_new_tokens=1, top_p=0)
