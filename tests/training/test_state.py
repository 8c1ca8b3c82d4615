from dataclasses import replace

import jax
import numpy as np
import optax
from tiny import TINY

from jaxgpt import gpt
from jaxgpt.sharding import MeshConfig, make_mesh
from jaxgpt.training.state import abstract_state, init_state, state_shardings

CFG = replace(TINY, n_layers=1, vocab_size=24, d_model=16)
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
CUT = MeshConfig(data=2, fsdp=2, tensor=2)


def test_a_state_begins_at_step_0_the_same_on_every_mesh():
    alone, cut = (init_state(jax.random.key(5), gpt.declare(CFG), OPTIMIZER, make_mesh(m)) for m in (MeshConfig(), CUT))
    assert alone.step == 0
    jax.tree.map(np.testing.assert_array_equal, alone.replace(key=0), cut.replace(key=0))
    for state in (alone, cut):
        assert (jax.random.key_data(state.key) == jax.random.key_data(jax.random.fold_in(jax.random.key(5), 1))).all()
    assert all((moment == 0).all() for moment in jax.tree.leaves(alone.optimizer))
    assert float(abs(alone.params["embedding"]["token"]).max()) > 0


def test_moments_lie_with_their_parameters_and_shapes_match():
    mesh = make_mesh(CUT)
    declarations = gpt.declare(CFG)
    state = init_state(jax.random.key(5), declarations, OPTIMIZER, mesh)
    placed, shapes = state_shardings(declarations, OPTIMIZER, mesh), abstract_state(declarations, OPTIMIZER, mesh)
    for found, sharding, shape in zip(*map(jax.tree.leaves, (state, placed, shapes)), strict=True):
        assert found.sharding.is_equivalent_to(sharding, found.ndim)
        assert (found.shape, found.dtype, shape.sharding) == (shape.shape, shape.dtype, sharding)
    adam = placed.optimizer[1][0]
    assert adam.mu == adam.nu == placed.params
    assert any(not s.is_fully_replicated for s in jax.tree.leaves(adam.mu))
    assert placed.step.is_fully_replicated
    assert placed.key.is_fully_replicated
    assert adam.count.is_fully_replicated
