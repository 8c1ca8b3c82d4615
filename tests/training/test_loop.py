"""The pieces of train.py: batches by step, evaluation as it is written in the formula, samples."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import TINY, apply, draw

from jaxgpt import gpt
from jaxgpt.data import DataConfig, TrainBatches
from jaxgpt.sharding import make_mesh
from jaxgpt.tokenizers import CharTokenizer
from jaxgpt.training import loop
from jaxgpt.training.config import LoopConfig, TrainConfig
from jaxgpt.training.objectives import causal_lm

CFG = replace(TINY, n_layers=1, context_length=8)
CONFIG = TrainConfig(
    model=CFG, train=LoopConfig(steps=23, batch_size=4, eval_every=10, eval_batches=3, steps_per_dispatch=4, seed=5)
)
TOKENS = np.random.default_rng(0).integers(0, CFG.vocab_size, 400).astype(np.uint16)


@pytest.mark.parametrize("start", [0, 6, 20])
def test_blocks_hold_the_batches_of_their_steps(start):
    wanted = TrainBatches(TOKENS, 8, 4, seed=5)
    at = start
    for first, last, block in loop.blocks(CONFIG, loop.training_batches(CONFIG, TOKENS), start, make_mesh()):
        assert first == at < last <= first + 4
        assert block["inputs"].shape == (4, 4, 8)  # one shape, also for fewer steps
        for step in range(first, last):
            for name, rows in wanted[step].items():
                np.testing.assert_array_equal(block[name][step - first], rows)
        at = last
    assert at == 23


def test_an_evaluation_is_the_mean_over_evenly_spread_windows():
    params = draw(gpt.declare(CFG))
    evaluate = loop.evaluator(CONFIG, TOKENS, causal_lm, make_mesh())

    def by_hand(batches):
        starts = np.arange(batches * 4) * (400 - 8) // (batches * 4)
        windows = jnp.array([TOKENS[start : start + 9] for start in starts], jnp.int32)
        logits = jax.nn.log_softmax(apply(params, windows[:, :-1], CFG))
        return float(-jnp.take_along_axis(logits, windows[:, 1:, None], -1).mean())

    assert evaluate(params, 3) == pytest.approx(by_hand(3), rel=1e-5)
    assert evaluate(params, 4) == evaluate(params, 6) == pytest.approx(by_hand(6), rel=1e-5)  # up to a multiple of 3
    assert evaluate(params, 3) != evaluate(params, 6)


@pytest.mark.parametrize("own", [None, "other.txt"])
def test_too_short_a_text_is_refused_before_any_work(own):
    config = replace(CONFIG, data=DataConfig(validation_path=own))
    expected = r" part, expected at least model\.context_length \+ 1 = 9$"
    with pytest.raises(ValueError, match=r"^data\.path: found 8 tokens in the training" + expected):
        loop.training_batches(config, TOKENS[:8])
    blamed = "path" if own is None else "validation_path"
    with pytest.raises(ValueError, match=rf"^data\.{blamed}: found 8 tokens in the validation" + expected):
        loop.evaluator(config, TOKENS[:8], causal_lm, make_mesh())
    loop.training_batches(config, TOKENS[:9])
    loop.evaluator(config, TOKENS[:9], causal_lm, make_mesh())


TOKENIZER = CharTokenizer.train(["abcdefghijklmnopqrstuvw"])


def prompted(prompt):
    return replace(CONFIG, train=replace(CONFIG.train, sample_prompt=prompt, sample_tokens=9))


def test_a_sample_goes_on_from_its_prompt_and_depends_on_the_step_alone():
    params = draw(gpt.declare(CFG))
    texts = [loop.sample(params, TOKENIZER, prompted("cab"), step) for step in (7, 7, 8)]
    assert texts[0] == texts[1]
    assert texts[0].startswith("--- a sample after 7 steps ---\ncab")
    bodies = [text.splitlines()[1] for text in texts]
    assert len(bodies[0]) == 3 + 9
    assert bodies[0] != bodies[2]


def test_a_model_of_more_ids_than_the_tokenizer_writes_its_characters_only():
    params, config = draw(gpt.declare(CFG)), prompted("ab")
    few = CharTokenizer.train(["abcdef"])
    for step in range(5):
        body = loop.sample(params, few, config, step).splitlines()[1]
        assert len(body) == 2 + 9
        assert set(body) <= set("abcdef")


def test_samples_start_from_the_prompt_else_from_the_beginning_of_a_text():
    assert loop.sample_start(prompted("cab"), TOKENIZER) == [2, 0, 1]
    assert loop.sample_start(prompted(""), CharTokenizer.train(["\nab"])) == [0]
    assert loop.sample_start(prompted(""), TOKENIZER) == [0]  # no line break, no end of text: the first token
    with pytest.raises(ValueError, match=r"train\.sample_prompt: .*found 'Z'"):
        loop.sample_start(prompted("Z"), TOKENIZER)
    with pytest.raises(ValueError, match=r"train\.sample_prompt: found 9 tokens, expected at most context_length=8"):
        loop.sample_start(prompted("a" * 9), TOKENIZER)
