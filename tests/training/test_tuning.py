"""Training a part of a model: what learns, what stays to the bit, and how a run goes on."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from tiers import few
from tiny import TINY, draw

from jaxgpt import gpt
from jaxgpt import params as P
from jaxgpt.model import declarations
from jaxgpt.sharding import MeshConfig, make_mesh
from jaxgpt.training import objectives, tuning
from jaxgpt.training.checkpoints import Checkpoints
from jaxgpt.training.config import OptimizerConfig, TrainConfig, TuneConfig
from jaxgpt.training.optimizer import make_optimizer
from jaxgpt.training.state import abstract_state, init_state
from jaxgpt.training.step import compile_train

CFG = replace(TINY, head="sequence", n_classes=3)
CLASSIFICATION = objectives.find("classification")
RNG = np.random.default_rng(0)
BLOCK = {
    "inputs": jnp.array(RNG.integers(0, 23, (2, 4, 9))),
    "labels": jnp.array(RNG.integers(0, 3, (2, 4))),
}


def tuned(**fields):
    return tuning.find(TrainConfig(objective="classification", model=CFG, init_from="x", tune=TuneConfig(**fields)))


KINDS = {"lora": {"lora_rank": 2, "lora_dropout": 0.3}, "one block": {"last_blocks": 1}, "head": {"last_blocks": 0}}


def start(found, params, mesh=None):
    declared = declarations(CFG)
    optimizer = make_optimizer(OptimizerConfig(warmup_steps=0), 10, P.decay_mask(found.trained(declared)))
    mesh = make_mesh(mesh or MeshConfig())
    return init_state(jax.random.key(0), declared, optimizer, mesh, found, params), optimizer, mesh


def flat(tree):
    return traverse_util.flatten_dict(tree, sep="/")


@pytest.fixture(scope="module")
def params():
    return draw(declarations(CFG))


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_is_trained_changes(kind, params):
    found = tuned(**KINDS[kind])
    before = jax.tree.map(np.asarray, params)
    state, optimizer, mesh = start(found, jax.tree.map(jnp.copy, params))
    for name, x in flat(found.model(state)).items():
        np.testing.assert_array_equal(x, flat(before)[name])  # it begins as the model, to the bit
    learns = set(flat(found.trained(declarations(CFG))))
    assert set(flat(state.params)) == learns
    moments = {leaf.shape for leaf in jax.tree.leaves(state.optimizer) if leaf.ndim}
    assert moments <= {leaf.shape for leaf in jax.tree.leaves(state.params)}

    frozen = jax.tree.map(np.asarray, state.frozen)
    state, _ = compile_train(CFG, CLASSIFICATION, optimizer, mesh, 1, found)(state, BLOCK, 2)
    jax.tree.map(np.testing.assert_array_equal, state.frozen, frozen)
    after = flat(found.model(state))
    changed = {name for name, x in after.items() if (np.asarray(x) != flat(before)[name]).any()}
    assert "classifier/kernel" in changed
    if kind == "lora":
        assert changed == {"classifier/kernel", "layers/attention/query/kernel", "layers/attention/value/kernel"}
        assert learns == {"classifier/kernel"} | {
            f"adapter/layers/attention/{name}/{half}" for name in ("query", "value") for half in "ab"
        }
    else:
        blocks = KINDS[kind]["last_blocks"]
        for name, x in after.items():
            same = np.asarray(x) == flat(before)[name]
            if name.startswith("layers/"):
                assert same[: 3 - blocks].all()
                assert blocks == 0 or not same[3 - blocks :].all(), name
            elif name.startswith("embedding/"):
                assert same.all()


def test_nothing_is_computed_backwards_through_blocks_that_stay(params):
    """The program for the head alone has a third of the operations of the one for all."""
    flops = {}
    for name, found in (("all", tuning.ALL), ("head", tuned(last_blocks=0))):
        state, optimizer, mesh = start(found, jax.tree.map(jnp.copy, params))
        program = compile_train(CFG, CLASSIFICATION, optimizer, mesh, 1, found)
        flops[name] = program.lower(state, BLOCK, jnp.int32(2)).compile().cost_analysis()["flops"]
    assert flops["head"] < 0.5 * flops["all"]


@pytest.mark.parametrize("kind", few(["lora", "one block"]))
def test_a_mesh_trains_as_one_device_does(kind, params):
    found, results = tuned(**KINDS[kind] | ({"lora_dropout": 0.0} if kind == "lora" else {})), []
    for mesh in (MeshConfig(), MeshConfig(data=2, fsdp=2)):
        state, optimizer, placed = start(found, jax.tree.map(jnp.copy, params), mesh)
        with jax.set_mesh(placed):
            state, metrics = compile_train(CFG, CLASSIFICATION, optimizer, placed, 1, found)(state, BLOCK, 2)
        results.append(metrics["loss"])
    np.testing.assert_allclose(*results, rtol=1e-5)


def test_a_run_goes_on_beside_the_same_base_only(tmp_path, params):
    found = tuned(lora_rank=2)
    state, optimizer, mesh = start(found, jax.tree.map(jnp.copy, params))
    abstract = abstract_state(declarations(CFG), optimizer, mesh, found)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, "text", {})
        checkpoints.wait()
        back = checkpoints.restore(abstract, "text", state.frozen)
        jax.tree.map(np.testing.assert_array_equal, back.frozen, state.frozen)
        jax.tree.map(np.testing.assert_array_equal, back.params, state.params)
        other = jax.tree.map(lambda x: x + 1, state.frozen)
        with pytest.raises(
            ValueError, match=r"^init_from: found other parameters than those beside which checkpoint 0"
        ):
            checkpoints.restore(abstract, "text", other)
    files = sum(file.stat().st_size for file in (tmp_path / "0" / "params").rglob("*") if file.is_file())
    assert files < 4 * P.count(declarations(CFG))  # the adapter's, not the model's


def test_what_can_not_be_had_is_refused():
    with pytest.raises(ValueError, match=r"tune.last_blocks: found 4, expected at most model.n_layers=3"):
        tuned(last_blocks=4)
    with pytest.raises(ValueError, match=r"tune.lora_rank: found 2, expected 0 beside tune.last_blocks"):
        TuneConfig(last_blocks=1, lora_rank=2)
    with pytest.raises(
        ValueError, match=r"init_from: found None, expected a model, as tune says to train a part of one"
    ):
        objectives.find("causal_lm").check(TrainConfig(tune=TuneConfig(lora_rank=2)))


def test_it_says_how_many_parameters_learn():
    declared = gpt.declare(TINY)
    assert tuning.ALL.count(declared) == f"{P.count(declared):,} parameters"
    found = tuned(lora_rank=2).count(declared)
    assert (
        found == f"{3 * 2 * ((14 + 24) + (14 + 8)):,} parameters beside {P.count(declared):,} that stay (6.53% trained)"
    )
