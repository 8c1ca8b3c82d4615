"""The pieces of train.py: batches by step, evaluation as it is written in the formula."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util
from tiny import TINY, apply, draw

from jaxgpt import gpt
from jaxgpt import params as P
from jaxgpt.data import Dataset, TrainBatches
from jaxgpt.data.batches import Batches
from jaxgpt.model import Settings
from jaxgpt.sharding import make_mesh
from jaxgpt.tokenizers import CharTokenizer
from jaxgpt.training import directory, loop
from jaxgpt.training.causal_lm import OBJECTIVE, CausalLM
from jaxgpt.training.checkpoints import Checkpoints
from jaxgpt.training.config import LoopConfig, TrainConfig
from jaxgpt.training.init_from import overlay
from jaxgpt.training.state import TrainState

CFG = replace(TINY, n_layers=1, context_length=8)
CONFIG = TrainConfig(
    model=CFG,
    train=LoopConfig(
        steps=23, batch_size=4, eval_every=10, eval_batches=3, final_eval_batches=4, steps_per_dispatch=4, seed=5
    ),
)
TOKENS = np.random.default_rng(0).integers(0, CFG.vocab_size, 400).astype(np.uint16)
TASK = CausalLM(CONFIG, Dataset(CharTokenizer.train(["abc"]), TOKENS, TOKENS, 1, 400, "identity"))


@pytest.mark.parametrize("start", [0, 6, 20])
def test_blocks_hold_the_batches_of_their_steps(start):
    wanted = TrainBatches(TOKENS, 8, 4, seed=5)
    at = start
    for first, last, block in loop.blocks(CONFIG, TASK.train, start, make_mesh()):
        assert first == at < last <= first + 4
        assert block["inputs"].shape == (4, 4, 8)  # one shape, also for fewer steps
        for step in range(first, last):
            for name, rows in wanted[step].items():
                np.testing.assert_array_equal(block[name][step - first], rows)
        at = last
    assert at == 23


def start_from(folder, cfg):
    """(the parameters that a run of a model of its own starts with, those saved in folder by one of CFG)"""
    saved, optimizer = draw(gpt.declare(CFG)), optax.sgd(0.1)
    source = folder / "source"
    source.mkdir(exist_ok=True)
    directory.write(source, CONFIG, TASK.tokenizer, Settings())
    with Checkpoints(source / directory.CHECKPOINTS) as checkpoints:
        checkpoints.save(TrainState(jnp.array(1), saved, optimizer.init(saved), jax.random.key(0)), "text", {})
        checkpoints.wait()
    config = replace(CONFIG, model=cfg, init_from=str(source))
    with Checkpoints(folder / "run") as checkpoints:
        state = loop.restore_or_init(config, checkpoints, gpt.declare(cfg), optimizer, make_mesh(), "text")
    assert state.step == 0
    return state.params, saved


def test_a_start_from_the_same_model_takes_all_and_says_nothing(tmp_path, capsys):
    found, saved = start_from(tmp_path, CFG)
    jax.tree.map(np.testing.assert_array_equal, found, saved)
    assert "init_from" not in capsys.readouterr().out


def test_a_start_from_another_model_takes_what_fits_and_names_the_rest(tmp_path, capsys):
    cfg = replace(CFG, tie_embeddings=False, position="rotary", d_ff=CFG.d_ff + 1)
    found, saved = start_from(tmp_path, cfg)
    up = "layers/mlp/up"
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("init_from")]
    assert said == [
        f"init_from: starting anew: head/kernel, layers/mlp/down/kernel, {up}/bias, {up}/kernel",
        f"init_from: left unused: embedding/position, layers/mlp/down/kernel, {up}/bias, {up}/kernel",
    ]
    fresh = P.init(jax.random.key(CONFIG.train.seed), gpt.declare(cfg))
    found, saved, fresh = (traverse_util.flatten_dict(tree, sep="/") for tree in (found, saved, fresh))
    assert found.keys() == fresh.keys()
    for name, x in found.items():
        np.testing.assert_array_equal(x, (fresh if name in said[0] else saved)[name])


def test_a_start_from_a_model_that_shares_nothing_is_refused():
    ours, theirs = {"a": jnp.ones(3), "b": {"c": jnp.ones(2)}}, {"a": jnp.ones(4), "c": jnp.ones(2)}
    with pytest.raises(ValueError, match=r"^init_from: found a, c, none of them a parameter of this model, expected"):
        overlay(ours, theirs)


class Buckets(Batches):
    """Rows of the step, 2 wide in the first run, 3 in the second; one flag a row."""

    batch_size = 4

    def __init__(self, run_length):
        self.run_length = run_length

    def block(self, step, k):
        run = step // self.run_length
        assert (step + k - 1) // self.run_length == run, "asked for steps of another run"
        steps = np.arange(step, step + k)
        return {
            "source": np.broadcast_to(steps[:, None, None], (k, 4, 2 + run % 2)),
            "flag": np.repeat(steps, 4).reshape(k, 4),
        }

    def tokens(self, start, end):
        return (end - start) * 4


@pytest.mark.parametrize("start", [0, 8, 13])
@pytest.mark.parametrize("run_length", [3, 6, 8])
def test_a_dispatch_is_of_one_run_and_each_shape_has_one_number_of_batches(run_length, start):
    at, shapes = start, set()
    for first, last, block in loop.blocks(CONFIG, Buckets(run_length), start, make_mesh()):
        assert first == at < last
        assert first // run_length == (last - 1) // run_length
        assert first // 10 == (last - 1) // 10  # an evaluation is made in time
        np.testing.assert_array_equal(block["source"][: last - first, 0, 0], np.arange(first, last))
        np.testing.assert_array_equal(block["flag"][: last - first, 3], np.arange(first, last))
        shapes.add(block["source"].shape)
        at = last
    assert at == 23
    assert shapes == {(min(run_length, 4), 4, width) for width in (2, 3)}


def test_an_evaluation_is_the_mean_over_its_batches():
    params = draw(gpt.declare(CFG))
    evaluate = loop.evaluator(CONFIG, OBJECTIVE, TASK, make_mesh())

    def by_hand(batches):
        starts = np.arange(batches * 4) * (400 - 8) // (batches * 4)
        windows = jnp.array([TOKENS[start : start + 9] for start in starts], jnp.int32)
        logits = jax.nn.log_softmax(apply(params, windows[:, :-1], CFG))
        return float(-jnp.take_along_axis(logits, windows[:, 1:, None], -1).mean())

    assert evaluate(params)["val_loss"] == pytest.approx(by_hand(3), rel=1e-5)
    assert evaluate(params, last=True)["val_loss"] == pytest.approx(by_hand(6), rel=1e-5)  # 4, in blocks of 3
    assert evaluate(params) == evaluate(params) != evaluate(params, last=True)


class Scored(CausalLM):
    def score(self, params, cfg, *, last):
        assert cfg == CFG
        return {"val_bleu": float(params["final_norm"]["scale"][0]) + last}


def test_an_evaluation_tells_the_score_too():
    params = draw(gpt.declare(CFG))
    task = Scored(CONFIG, Dataset(CharTokenizer.train(["abc"]), TOKENS, TOKENS, 1, 400, "identity"))
    plain, evaluate = (loop.evaluator(CONFIG, OBJECTIVE, one, make_mesh()) for one in (TASK, task))
    score = float(params["final_norm"]["scale"][0])
    assert evaluate(params) == plain(params) | {"val_bleu": score}
    assert evaluate(params, last=True)["val_bleu"] == score + 1
