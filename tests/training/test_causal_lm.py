"""The objective of a decoder: windows of a text, what an evaluation tells, samples, operations a token."""

import math
from dataclasses import replace

import numpy as np
import pytest
from tiny import TINY, draw

from jaxgpt import gpt
from jaxgpt.config import gpt2, llama
from jaxgpt.data import DataConfig, Dataset, TrainBatches
from jaxgpt.tokenizers import CharTokenizer
from jaxgpt.training.causal_lm import CausalLM
from jaxgpt.training.config import LoopConfig, TrainConfig
from jaxgpt.training.metrics import flops_per_token

CFG = replace(TINY, n_layers=1, context_length=8)
CONFIG = TrainConfig(
    model=CFG,
    data=DataConfig(sampling="epochs", stride=3),
    train=LoopConfig(batch_size=4, eval_batches=3, seed=5, sample_tokens=9),
)
TOKENS = np.random.default_rng(0).integers(0, CFG.vocab_size, 400).astype(np.uint16)
TOKENIZER = CharTokenizer.train(["abcdefghijklmnopqrstuvw"])


def task_of(config=CONFIG, train=TOKENS, validation=TOKENS, tokenizer=TOKENIZER, validation_bytes=1600):
    return CausalLM(config, Dataset(tokenizer, train, validation, 1, validation_bytes, "identity"))


def prompted(prompt):
    return replace(CONFIG, train=replace(CONFIG.train, sample_prompt=prompt))


def test_training_batches_are_those_of_the_config():
    found, wanted = task_of().train, TrainBatches(TOKENS, 8, 4, seed=5, stride=3, sampling="epochs")
    for step in (0, 57):
        for name, rows in wanted[step].items():
            np.testing.assert_array_equal(found[step][name], rows)


def test_an_evaluation_is_of_evenly_spread_windows_in_blocks_of_one_shape():
    for n, made in ((3, 3), (4, 6)):  # up to a multiple of eval_batches
        blocks = list(task_of().evaluation(n))
        assert [block["inputs"].shape for block in blocks] == [(3, 4, 8)] * (made // 3)
        starts = np.arange(made * 4) * (400 - 8) // (made * 4)
        windows = np.array([TOKENS[start : start + 9] for start in starts]).reshape(-1, 3, 4, 9)
        np.testing.assert_array_equal(np.array([block["inputs"] for block in blocks]), windows[..., :-1])
        np.testing.assert_array_equal(np.array([block["targets"] for block in blocks]), windows[..., 1:])


def test_bits_a_byte_by_hand():
    # 2 ln 2 nats are 2 bits a token; with 4 bytes a token, half a bit a byte.
    found = task_of().metrics({"nats": 20 * math.log(2), "weight": 10.0, "correct": 3.0})
    assert found == pytest.approx({"val_loss": 1.386294, "val_perplexity": 4.0, "val_bits_per_byte": 0.5}, rel=1e-6)
    assert math.isfinite(task_of().metrics({"nats": 1e6, "weight": 1.0})["val_perplexity"])
    assert math.isnan(task_of().metrics({"nats": math.nan, "weight": 1.0})["val_loss"])


@pytest.mark.parametrize("own", [None, "other.txt"])
def test_too_short_a_text_is_refused_before_any_work(own):
    config = replace(CONFIG, data=DataConfig(validation_path=own))
    expected = r" part, expected at least model\.context_length \+ 1 = 9$"
    with pytest.raises(ValueError, match=r"^data\.path: found 8 tokens in the training" + expected):
        task_of(config, train=TOKENS[:8])
    blamed = "path" if own is None else "validation_path"
    with pytest.raises(ValueError, match=rf"^data\.{blamed}: found 8 tokens in the validation" + expected):
        task_of(config, validation=TOKENS[:8])
    task_of(config, train=TOKENS[:9], validation=TOKENS[:9])


def test_a_sample_goes_on_from_its_prompt_and_depends_on_the_step_alone():
    params, task = draw(gpt.declare(CFG)), task_of(prompted("cab"))
    texts = [task.show(params, CFG, step) for step in (7, 7, 8)]
    assert texts[0] == texts[1]
    assert texts[0].startswith("--- a sample after 7 steps ---\ncab")
    bodies = [text.splitlines()[1] for text in texts]
    assert len(bodies[0]) == 3 + 9
    assert bodies[0] != bodies[2]


def test_a_model_of_more_ids_than_the_tokenizer_writes_its_characters_only():
    params, task = draw(gpt.declare(CFG)), task_of(prompted("ab"), tokenizer=CharTokenizer.train(["abcdef"]))
    for step in range(5):
        body = task.show(params, CFG, step).splitlines()[1]
        assert len(body) == 2 + 9
        assert set(body) <= set("abcdef")


def test_without_a_prompt_samples_start_from_the_beginning_of_a_text(monkeypatch):
    begun = []
    monkeypatch.setattr(
        "jaxgpt.training.causal_lm.generate_tokens", lambda _, rows, *a, **k: begun.append(rows) or [[]]
    )
    for prompt, tokenizer in (("cab", TOKENIZER), ("", CharTokenizer.train(["\nab"])), ("", TOKENIZER)):
        task_of(prompted(prompt), tokenizer=tokenizer).show({}, CFG, 1)
    assert begun == [[[2, 0, 1]], [[0]], [[0]]]  # the last has no line break and no end of text: the first token


def test_a_prompt_that_cannot_be_used_is_refused():
    with pytest.raises(ValueError, match=r"train\.sample_prompt: .*found 'Z'"):
        task_of().check(prompted("Z"))
    with pytest.raises(ValueError, match=r"train\.sample_prompt: found 9 tokens, expected at most context_length=8"):
        task_of().check(prompted("a" * 9))
    task_of().check(prompted("a" * 8))


def test_operations_a_token_of_gpt2_by_hand():
    matrices = 12 * (4 * 768 * 768 + 2 * 768 * 3072) + 768 * 50257  # blocks, head; positions cost an addition
    attention = 12 * 2 * 768 * (1024 / 2)  # a layer's scores and mixture over the mean context, forward
    assert flops_per_token(gpt2()) == 6 * matrices + 6 * attention == 797_815_296


def test_operations_count_what_a_shape_has():
    cfg = llama()  # the published one: 3 matrices an MLP
    blocks = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    assert flops_per_token(cfg) == 6 * (blocks + 4096 * 32000) + 6 * 32 * 2 * 4096 * 2048
    shared = replace(cfg, n_kv_heads=8)
    assert flops_per_token(cfg) - flops_per_token(shared) == 6 * 32 * 2 * 4096 * (4096 - 1024)
    assert flops_per_token(cfg) - flops_per_token(replace(cfg, window=48)) == 6 * 32 * 2 * 4096 * (2048 - 48)
    assert flops_per_token(replace(cfg, window=4096)) == flops_per_token(cfg)
    assert task_of().flops_per_token(cfg) == flops_per_token(cfg)
