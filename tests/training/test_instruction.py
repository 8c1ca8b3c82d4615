"""The objective of an assistant: its rows, what an evaluation tells, its answers; an adapter that it trains."""

import json
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from tiny import TINY, draw, loss

import jaxgpt
from jaxgpt import gpt
from jaxgpt.data import DataConfig
from jaxgpt.data.conversations import Conversation, Conversations
from jaxgpt.generation import generate_tokens
from jaxgpt.tokenizers import BPETokenizer
from jaxgpt.tokenizers.styles import styled
from jaxgpt.training import instruction, objectives
from jaxgpt.training.config import LoopConfig, OptimizerConfig, TrainConfig

pytest.importorskip("jinja2")

PLAIN = BPETokenizer.train("ask and answer, again and again", 270)
TOKENIZER = styled(PLAIN, "chatml")
CFG = replace(TINY, vocab_size=TOKENIZER.vocab_size, context_length=160, n_layers=1)
CONFIG = TrainConfig(
    objective="instruction",
    model=CFG,
    data=DataConfig(style="chatml"),
    train=LoopConfig(batch_size=2, sample_tokens=5),
)


def conversation(i, answer="and again"):
    messages = [{"role": "user", "content": f"ask {i}"}, {"role": "assistant", "content": answer}]
    return Conversation(f"file, record {i}", messages, {})


FOUND = Conversations([conversation(i) for i in range(9)], [conversation(i, "answer") for i in (20, 21, 22)], [])


def task_of(found=FOUND, **data):
    return instruction.Instruction(replace(CONFIG, data=replace(CONFIG.data, **data)), TOKENIZER, found)


def total(task, params):
    """The sums of an evaluation."""
    sums = {}
    for block in task.evaluation(1):
        for k in range(len(block["inputs"])):
            for name, x in loss(params, {n: jnp.array(rows[k]) for n, rows in block.items()}, CFG)[1].items():
                sums[name] = sums.get(name, 0.0) + float(x)
    return sums


def test_packed_or_not_an_evaluation_is_the_same_and_by_hand():
    params = draw(gpt.declare(CFG))
    packed, alone = (total(task_of(pack=pack, buckets=1), params) for pack in (True, False))
    assert packed == pytest.approx(alone, rel=1e-6)
    nats = 0.0
    for one in FOUND.validation:
        asked = TOKENIZER.encode_chat(one.messages[:1])
        answer = [*TOKENIZER.encode("answer<|im_end|>"), TOKENIZER.end_of_text]
        logits = gpt.apply(params, jnp.array([asked + answer]), CFG)[0].astype(float)
        logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
        nats -= sum(logits[len(asked) - 1 + k, token] for k, token in enumerate(answer))
    found = task_of().metrics(packed)
    assert packed["weight"] == 3 * len(answer)
    assert found["val_loss"] == pytest.approx(float(nats) / packed["weight"], rel=1e-5)
    assert found["val_perplexity"] == pytest.approx(np.exp(found["val_loss"]))


def test_all_tokens_are_learnt_where_that_is_asked_for():
    params = draw(gpt.declare(CFG))
    every = total(task_of(learn="all"), params)
    lengths = [len(TOKENIZER.encode_chat(one.messages, add_generation_prompt=False)) - 1 for one in FOUND.validation]
    assert every["weight"] == sum(lengths)


def test_batches_hold_every_conversation_once_an_epoch(capsys):
    for pack in (True, False):
        task = task_of(pack=pack, buckets=2, run_length=1)
        rows = len(task.train._examples.packs)
        assert (rows < 9) == pack
    assert "9 training conversations" in capsys.readouterr().out


@pytest.mark.parametrize("rule", ["cut", "drop"])
def test_one_that_is_too_long_is_cut_or_left_out_and_told(rule, capsys):
    long = [conversation(7, "again and " * 80), conversation(8, "x")]
    long[1].messages[0]["content"] = "ask " * 200  # its answer would begin beyond the context
    task = task_of(Conversations([*FOUND.train, *long], FOUND.validation, []), too_long=rule)
    told = {"cut": "1 cut, 1 left out", "drop": "0 cut, 2 left out"}[rule]
    assert f"data: 2 training conversations of more than 160 tokens: {told}" in capsys.readouterr().out
    lengths = [len(ids) for ids in task.train._examples.ids]
    assert (len(lengths), max(lengths) == 161) == {"cut": (10, True), "drop": (9, False)}[rule]


def test_a_part_without_one_that_fits_is_refused():
    held = [conversation(1)]
    held[0].messages[0]["content"] = "ask " * 200
    with pytest.raises(ValueError, match="validation conversations that fit: found 0, expected one or more of 160"):
        task_of(Conversations(FOUND.train, held, []))


def test_it_shows_the_likeliest_answers():
    params = draw(gpt.declare(CFG))
    text = task_of().show(params, CFG, 3)
    asked = TOKENIZER.encode_chat(FOUND.validation[0].messages[:1])
    found = generate_tokens(params, [asked], CFG, max_new_tokens=5, end_tokens=[TOKENIZER.end_of_text])[0]
    answer = TOKENIZER.decode(token for token in found if token != TOKENIZER.end_of_text)
    assert text.startswith(f"--- answers after 3 steps ---\nasked   ask 20\nanswer  answer\nmodel   {answer}\n")
    assert text.count("asked") == 3


def test_it_is_another_run_for_other_data():
    names = [task_of(**change).identity for change in ({}, {}, {"learn": "all"}, {"pack": False})]
    assert names[0] == names[1]
    assert len(set(names)) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": DataConfig(mask_rate=0.3)}, "data.mask_rate: found 0.3, expected 0.15"),
        ({"model": replace(CFG, head="sequence", n_classes=2)}, "model.head: found 'sequence', expected lm"),
    ],
)
def test_what_it_does_not_read_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        objectives.find("instruction").check(replace(CONFIG, **change))


def test_an_adapter_is_trained_exported_and_loaded(tmp_path, monkeypatch):
    """By train.py's own function: the run, its files for others, and its adapter beside the base, are one model."""
    from train import train

    monkeypatch.chdir(tmp_path)
    base_cfg = replace(
        CFG, norm="rms", position="rotary", activation="silu", gated=True, bias=False, tie_embeddings=False
    )
    base = jaxgpt.Model(base_cfg, draw(gpt.declare(base_cfg)), PLAIN)
    jaxgpt.save(base, "base")
    records = [{"prompt": f"ask {i}", "completion": "and answer"} for i in range(20)]
    (tmp_path / "data.json").write_text(json.dumps(records))
    config = TrainConfig(
        objective="instruction",
        data=DataConfig(path="data.json", style="chatml", test_fraction=0.2, too_long="cut"),
        train=LoopConfig(steps=3, batch_size=2, eval_every=3, sample_tokens=2),
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=0),
        tune=replace(CONFIG.tune, lora_rank=2, lora_targets=("query", "down")),
        init_from="base",
        out="run",
    )
    train(config)
    assert len((tmp_path / "run/data/test.jsonl").read_text().splitlines()) == 4
    whole, beside = jaxgpt.load("run"), jaxgpt.load("run/adapter")
    assert whole.tokenizer.chat_template is not None
    prompt = jnp.array([base.tokenizer.encode("ask and answer")])
    logits = [gpt.apply(model.params, prompt, model.config) for model in (whole, beside, base)]
    np.testing.assert_allclose(logits[0], logits[1], atol=1e-6)
    assert float(abs(logits[0] - logits[2]).max()) > 1e-4
    (tmp_path / "run/config.json").unlink()  # not exported: from its checkpoint, and the base
    np.testing.assert_array_equal(gpt.apply(jaxgpt.load("run").params, prompt, base_cfg), logits[0])


def test_a_run_goes_on_without_the_directory_that_it_began_with(tmp_path, monkeypatch, capsys):
    from train import train

    monkeypatch.chdir(tmp_path)
    rotary = {"norm": "rms", "position": "rotary", "activation": "silu", "gated": True, "bias": False}
    cfg = replace(CFG, **rotary, tie_embeddings=False)
    jaxgpt.save(jaxgpt.Model(cfg, draw(gpt.declare(cfg)), PLAIN), "base")
    records = [{"prompt": f"ask {i}", "completion": "and answer"} for i in range(20)]
    (tmp_path / "data.json").write_text(json.dumps(records))
    config = TrainConfig(
        objective="instruction",
        data=DataConfig(path="data.json", style="chatml"),
        train=LoopConfig(steps=1, batch_size=2, eval_every=1, sample_tokens=1),
        init_from="base",
        out="run",
    )
    train(config)
    (tmp_path / "base").rename(tmp_path / "gone")
    train(config)
    assert "finished before: all 1 steps are made" in capsys.readouterr().out
