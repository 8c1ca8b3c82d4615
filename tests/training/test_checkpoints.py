import json
import math
import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from damage import cut, flip_a_byte
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as Spec
from tiny import TINY, draw

from jaxgpt import gpt
from jaxgpt import params as P
from jaxgpt.sharding import MeshConfig, make_mesh
from jaxgpt.training.checkpoints import NOT_EVALUATED, Checkpoints, checksum, restore_params
from jaxgpt.training.state import TrainState, abstract_state

CFG = replace(TINY, n_layers=1, vocab_size=24, d_model=16)
OPTIMIZER = optax.adamw(1e-3)
DECLARATIONS = gpt.declare(CFG)
ALONE = MeshConfig()


def state_at(step):
    params = draw(DECLARATIONS, step)
    moments = jax.tree.map(lambda x: x + step, OPTIMIZER.init(draw(DECLARATIONS, step + 1)))
    return TrainState(jnp.array(step), params, moments, jax.random.key(step + 2))


def abstract(mesh=ALONE):
    return abstract_state(DECLARATIONS, OPTIMIZER, make_mesh(mesh))


def save(folder, steps, keep=2, losses=None):
    with Checkpoints(folder, keep) as checkpoints:
        for step in steps:
            checkpoints.save(state_at(step), "text", {}, NOT_EVALUATED if losses is None else losses[step])
        checkpoints.wait()
    return folder


def steps_in(folder):
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def restored(folder, mesh=ALONE):
    said = []
    with Checkpoints(folder, log=said.append) as checkpoints:
        return checkpoints.restore(abstract(mesh), "text"), said


def assert_state(found, step):
    wanted = state_at(step)
    assert found.step == step
    assert (jax.random.key_data(found.key) == jax.random.key_data(wanted.key)).all()
    jax.tree.map(np.testing.assert_array_equal, (found.params, found.optimizer), (wanted.params, wanted.optimizer))


def empty(folder):
    folder.rename(folder.with_name("gone"))
    folder.mkdir()


def change_the_key(folder):
    (file,) = (path for path in folder.rglob("*") if path.is_file() and b'"checksum"' in path.read_bytes())
    run = json.loads(file.read_text())
    run["key"][-1] ^= 1
    file.write_text(json.dumps(run))


def test_a_state_comes_back_bit_for_bit_from_any_mesh_to_any_mesh(tmp_path):
    save(tmp_path, [3])
    for mesh in (ALONE, MeshConfig(data=2, fsdp=2, tensor=2), MeshConfig(fsdp=4)):
        found, said = restored(tmp_path, mesh)
        assert_state(found, 3)
        assert said == []
        for x, shape in zip(jax.tree.leaves(found), jax.tree.leaves(abstract(mesh)), strict=True):
            assert x.sharding.is_equivalent_to(shape.sharding, x.ndim)


def test_nothing_saved_is_nothing_restored(tmp_path):
    assert restored(tmp_path / "new") == (None, [])


def test_the_newest_and_the_best_are_kept(tmp_path):
    losses = {1: 3.0, 2: 1.0, 3: 2.0, 4: NOT_EVALUATED, 5: 2.5}
    save(tmp_path, losses, keep=2, losses=losses)
    assert steps_in(tmp_path) == [2, 4, 5]
    best = restore_params(tmp_path, P.abstract(DECLARATIONS))
    jax.tree.map(np.testing.assert_array_equal, best, state_at(2).params)
    assert_state(restored(tmp_path)[0], 5)


def test_the_best_of_checkpoints_that_saved_their_loss_is_found_and_kept(tmp_path):
    """As it was before there were other objectives."""
    losses = {1: 3.0, 2: 1.0, 3: 2.0}
    save(tmp_path, losses, keep=3, losses=losses)
    for step, loss in losses.items():
        (tmp_path / str(step) / "metrics" / "metrics").write_text(json.dumps({"val_loss": loss}))
    best = restore_params(tmp_path, P.abstract(DECLARATIONS))
    jax.tree.map(np.testing.assert_array_equal, best, state_at(2).params)
    save(tmp_path, [4, 5], keep=2, losses={4: 1.5, 5: 2.5})
    assert steps_in(tmp_path) == [2, 4, 5]


def test_a_step_is_saved_once(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state_at(4), "text", {})
        checkpoints.wait()
        for step in (4, 3):
            with pytest.raises(FileExistsError, match=f"found a checkpoint of step {step} or later, saved nothing"):
                checkpoints.save(state_at(step), "text", {})


@pytest.mark.parametrize("damage", [flip_a_byte, cut, empty, change_the_key])
def test_a_damaged_checkpoint_is_stepped_over_set_aside_and_made_again(tmp_path, damage):
    save(tmp_path, [3, 6])
    damage(tmp_path / "6")
    found, said = restored(tmp_path)
    assert_state(found, 3)
    assert len(said) == 1
    assert said[0].startswith("checkpoint 6 is damaged (")
    assert said[0].endswith(": stepping over it")
    assert steps_in(tmp_path) == [3]
    assert (tmp_path / "damaged-6").is_dir()
    save(tmp_path, [6])
    assert_state(restored(tmp_path)[0], 6)


def test_all_damaged_is_refused_and_nothing_moved(tmp_path):
    save(tmp_path, [3, 6])
    cut(tmp_path / "3")
    empty(tmp_path / "6")
    with pytest.raises(ValueError, match=r"out: found only damaged checkpoints in .*, expected a whole one"):
        restored(tmp_path)
    assert steps_in(tmp_path) == [3, 6]


def test_other_data_is_refused_whatever_the_shapes_and_nothing_moved(tmp_path):
    save(tmp_path, [3, 6])
    other = abstract_state(gpt.declare(replace(CFG, vocab_size=40)), OPTIMIZER, make_mesh())
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(ValueError, match=r"data\.path: found other tokens than checkpoint 6 of .* learnt from"):
            checkpoints.restore(other, "another text")
        assert_state(checkpoints.restore(abstract(), "text"), 6)


def change_the_parameters(folder):
    """Whole files of other numbers, as a bit flipped before they were written leaves them."""
    shutil.rmtree(folder)
    shutil.copytree(folder.parent.with_name("3") / "params", folder)


@pytest.mark.parametrize("damage", [cut, change_the_parameters])
def test_parameters_alone_step_over_a_damaged_checkpoint(tmp_path, damage):
    save(tmp_path, [3, 6], losses={3: 2.0, 6: 1.0})
    damage(tmp_path / "6" / "params")
    said = []
    found = restore_params(tmp_path, P.abstract(DECLARATIONS), said.append)
    jax.tree.map(np.testing.assert_array_equal, found, state_at(3).params)
    assert len(said) == 1
    assert (tmp_path / "6").is_dir()
    cut(tmp_path / "3" / "params")
    with pytest.raises(FileNotFoundError, match="found no whole checkpoint"):
        restore_params(tmp_path, P.abstract(DECLARATIONS), said.append)
    with pytest.raises(FileNotFoundError, match="found no such folder, expected the checkpoints of a run"):
        restore_params(tmp_path / "nowhere", P.abstract(DECLARATIONS))


@settings(deadline=None, max_examples=60)
@given(place=st.integers(0, 2 * 3 * 5 * 32 + 7 * 16 - 1))
def test_every_flipped_bit_changes_the_checksum(place):
    rng = np.random.default_rng(0)
    words = rng.integers(0, 2**32, 30, dtype=np.uint32)
    halves = rng.integers(0, 2**16, 7, dtype=np.uint16)

    def total():
        return int(checksum({"a": jnp.array(words.reshape(2, 3, 5)), "b": jnp.array(halves)}))

    before = total()
    if place < 30 * 32:
        words[place // 32] ^= np.uint32(1 << (place % 32))
    else:
        place -= 30 * 32
        halves[place // 16] ^= np.uint16(1 << (place % 16))
    assert total() != before


def test_the_checksum_is_of_the_bits_whatever_the_sharding():
    x = np.random.default_rng(0).normal(size=(8, 16)).astype(np.float32)
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    placed = [NamedSharding(mesh, spec) for spec in (Spec(), Spec("data", "tensor"), Spec(("data", "fsdp"), None))]
    found = {int(checksum({"x": jax.device_put(x, where)})) for where in placed}
    assert found == {int(checksum({"x": jnp.array(x)}))}
    assert int(checksum(jnp.array([0.0]))) != int(checksum(jnp.array([-0.0])))
    assert int(checksum(jnp.array([math.nan]))) == int(checksum(jnp.array([math.nan])))
    assert int(checksum(jnp.array([1.0, 2.0]))) != int(checksum(jnp.array([2.0, 1.0])))
    assert int(checksum((jnp.ones(2), jnp.zeros(2)))) != int(checksum((jnp.zeros(2), jnp.ones(2))))
