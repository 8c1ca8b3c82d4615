"""Direct preference optimization: its loss beside the paper's formula, the reference's view, and what a run learns."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from peers import parameters
from tiny import TINY, draw

import jaxgpt
from jaxgpt import gpt
from jaxgpt import params as P
from jaxgpt.config import gpt2
from jaxgpt.data import DataConfig
from jaxgpt.data.conversations import encode
from jaxgpt.data.preferences import SIDES, last_answer, read_preferences
from jaxgpt.losses import dpo
from jaxgpt.tokenizers import BPETokenizer
from jaxgpt.tokenizers.styles import styled
from jaxgpt.training import preference
from jaxgpt.training.config import LoopConfig, OptimizerConfig, TrainConfig
from jaxgpt.training.metrics import read_rows
from jaxgpt.training.optimizer import make_optimizer
from jaxgpt.training.state import TrainState
from jaxgpt.training.step import train_step

pytest.importorskip("jinja2")

GOLDEN = Path(__file__).parents[1] / "golden" / "preference.npz"
PLAIN = BPETokenizer.train("ask and answer, again and again, yes or no", 275)
CFG = replace(
    TINY, vocab_size=PLAIN.vocab_size, context_length=96, n_layers=1, norm="rms", position="rotary",
    activation="silu", gated=True, bias=False, tie_embeddings=False,
)  # fmt: skip
RECORDS = [{"prompt": f"ask {i}", "chosen": "yes" * (1 + i % 3), "rejected": "no"} for i in range(46)]


def test_the_loss_is_equation_7():
    """By the paper's words in float64, and where nothing has changed it is log 2."""
    rng = np.random.default_rng(0)
    chosen, rejected, old_chosen, old_rejected = rng.normal(-20, 5, (4, 6))
    wanted = -np.log(1 / (1 + np.exp(-0.3 * ((chosen - old_chosen) - (rejected - old_rejected)))))
    found = dpo(*(jnp.array(x, jnp.float32) for x in (chosen, rejected, old_chosen - old_rejected)), 0.3)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    np.testing.assert_allclose(dpo(jnp.array([-3.0]), jnp.array([-5.0]), jnp.array([2.0]), 0.1), np.log(2), rtol=1e-6)


def test_gradients_and_losses_are_those_of_trl(record_property):
    """tests/golden/make_preference.py: six steps of AdamW, from a policy whose reference is another model."""
    golden = dict(np.load(GOLDEN, allow_pickle=False))
    sizes = {"vocab_size": 23, "context_length": 24, "d_model": 12, "n_layers": 2, "n_heads": 3, "dropout": 0.0}
    cfg = replace(gpt2(), **sizes)

    def tree(kind):
        named = {name.removeprefix(kind): x for name, x in golden.items() if name.startswith(kind)}
        return parameters("gpt2", cfg, {name: x.astype(np.float32) for name, x in named.items()})

    params = tree("param/")
    old = jax.tree.map(lambda x: x / 2, params)
    batches = []
    for ids, real, learnt in zip(
        *(golden[f"{n}"] for n in ("input_ids", "attention_mask", "completion_mask")), strict=True
    ):
        arrays = {"inputs": ids[:, :-1], "targets": ids[:, 1:], "segments": real[:, :-1]}
        arrays["weights"] = learnt[:, 1:].astype(np.float32)
        batch = {
            f"{side}_{n}": x for n, both in arrays.items() for side, x in zip(SIDES, np.split(both, 2), strict=True)
        }
        batch |= {"beta": np.full(3, golden["beta"], np.float32), "weights": np.ones(3, np.float32)}
        batch["reference"] = preference._ratio(old, batch, cfg)
        batches.append(batch)
    (first, _), grads = jax.jit(jax.value_and_grad(preference.loss, has_aux=True), static_argnums=2)(
        params, batches[0], cfg
    )
    wanted = tree("grad/")
    for one in (grads, wanted):  # a key's bias moves all of a query's scores alike
        assert np.abs(one["layers"]["attention"]["key"].pop("bias")).max() < 1e-6
    errors = jax.tree.leaves(jax.tree.map(lambda a, b: float(np.abs(a - b).max() / np.abs(b).max()), grads, wanted))
    errors.append(abs(float(first) / golden["losses"][0] - 1))
    record_property("largest error at the first step", float(max(errors)))
    assert max(errors) < 1e-5

    config = OptimizerConfig(
        learning_rate=float(golden["rate"]), warmup_steps=0, schedule="constant", weight_decay=0.0, clip=None
    )
    optimizer = make_optimizer(config, 6, P.decay_mask(gpt.declare(cfg)))
    state = TrainState(jnp.array(0), params, optimizer.init(params), jax.random.key(0))
    step = jax.jit(partial(train_step, cfg=cfg, objective=preference.OBJECTIVE, optimizer=optimizer))
    found = []
    for batch in batches:
        state, metrics = step(state, batch)
        found.append(float(metrics["loss"]))
    np.testing.assert_allclose(found, golden["losses"], rtol=1e-4)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    jaxgpt.save(jaxgpt.Model(CFG, draw(gpt.declare(CFG)), PLAIN), folder / "model")
    (folder / "data.json").write_text(json.dumps(RECORDS))
    return folder


def config_of(base, **changes):
    config = TrainConfig(
        objective="preference",
        model=CFG,
        data=DataConfig(
            path=str(base / "data.json"), style="chatml", tokenizer=f"saved:{base / 'model'}", buckets=2, run_length=1
        ),
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=0),
        train=LoopConfig(steps=20, batch_size=3, eval_every=20),
        init_from=str(base / "model"),
        out=str(base / "run"),
    )
    return replace(config, **changes)


@pytest.mark.thorough
@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_reference_is_the_model_that_is_begun_with(base, batch_size):
    """By the whole logits of either answer; so that the first loss is log 2 of every pair."""
    config = config_of(base, train=LoopConfig(batch_size=batch_size))
    task = preference.OBJECTIVE.open(config, base)
    params, tokenizer = draw(gpt.declare(CFG)), styled(PLAIN, "chatml")
    parts = read_preferences(config.data, config.train.seed)
    found = np.concatenate([task.train._examples.reference, task._validation.reference])
    for number, one in enumerate([*parts[0], *parts[1]]):
        logp = []
        for messages in (one.chosen, one.rejected):
            ids, learnt = encode(tokenizer, messages, {tokenizer.end_of_text})
            logits = jax.nn.log_softmax(gpt.apply(params, jnp.array([ids[:-1]]), CFG)[0])
            logp.append(sum(logits[k, ids[k + 1]] for k in range(len(ids) - 1) if learnt[k + 1]))
        np.testing.assert_allclose(found[number], logp[0] - logp[1], rtol=1e-4)
    for block in task.evaluation(1):
        mean, sums = preference.loss(params, {n: jnp.array(x[0]) for n, x in block.items()}, CFG)
        np.testing.assert_allclose(mean, np.log(2), atol=1e-5)
        assert abs(float(sums["margin"])) < 1e-3


def test_a_run_learns_to_prefer(base, monkeypatch):
    from train import train

    monkeypatch.chdir(base)
    train(config_of(base))
    rows = [row for row in read_rows(base / "run/metrics.jsonl") if "val_loss" in row]
    assert rows[0]["val_loss"] == pytest.approx(np.log(2), abs=1e-4)
    assert rows[-1]["val_loss"] < 0.5
    assert rows[-1]["val_accuracy"] == 1.0
    assert rows[-1]["val_margin"] > 1


def test_the_last_answer_alone_is_learnt():
    assert last_answer([False, True, False, True, True, False]) == [False, False, False, True, True, False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chosen": [3]}, "chosen: message 0: found 3, expected .*role"),
        ({"rejected": " "}, "rejected: found 'an empty answer', expected a text"),
        ({"prompt": 3}, "prompt: found 3, expected a text"),
    ],
)
def test_a_record_that_is_none_is_refused_by_its_place(tmp_path, change, message):
    file = tmp_path / "data.json"
    file.write_text(json.dumps([*RECORDS[:3], RECORDS[3] | change]))
    with pytest.raises(ValueError, match=f"record 3: {message}"):
        read_preferences(DataConfig(path=str(file)), 0)


def test_answers_to_different_questions_are_refused(tmp_path):
    file = tmp_path / "data.json"
    ask = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    file.write_text(json.dumps([{"chosen": ask, "rejected": [{"role": "user", "content": "c"}, ask[1]]}]))
    with pytest.raises(ValueError, match='record 0: rejected: found "another question than chosen\'s"'):
        read_preferences(DataConfig(path=str(file)), 0)


def test_it_needs_a_model_to_begin_with(base):
    with pytest.raises(ValueError, match="init_from: found None, expected the model whose answers were judged"):
        preference.OBJECTIVE.open(config_of(base, init_from=None), base)
