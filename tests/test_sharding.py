from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as Spec
from tiers import few
from tiny import TINY, apply, draw, draw_tokens, loss_and_grads

from jaxgpt import gpt, sharding
from jaxgpt import params as P
from jaxgpt.sharding import MeshConfig, constrain, make_mesh, place, spec

CUBE = MeshConfig(data=2, fsdp=2, tensor=2)


def test_a_mesh_has_four_named_axes_over_the_first_devices():
    mesh = make_mesh(MeshConfig(data=2, tensor=2))
    assert dict(mesh.shape) == {"data": 2, "fsdp": 1, "sequence": 1, "tensor": 2}
    assert mesh.devices.flatten().tolist() == jax.devices()[:4]
    assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}
    assert make_mesh(devices=jax.devices()[3:4]).devices.item() == jax.devices()[3]
    assert make_mesh().size == 1


def test_a_mesh_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"mesh: found data=3 x fsdp=1 x .* = 3, expected a divisor of the 8 devices"):
        make_mesh(MeshConfig(data=3))
    with pytest.raises(ValueError, match=r"mesh\.fsdp: found 0, expected a positive integer"):
        MeshConfig(fsdp=0)


@pytest.mark.parametrize(
    ("axes", "shape", "wanted"),
    [
        (("embed", "heads", "head_dim"), (14, 6, 4), Spec(("fsdp",), ("tensor",), None)),
        (("batch", "time"), (12, 7), Spec(("data", "fsdp"), None)),  # sequence is of size 1
        (("batch", None), (6, 8), Spec(("data",), None)),  # 6 rows divide by 2, not by 4
        (("batch", None), (5, 8), Spec(None, None)),
        (("heads", "mlp"), (3, 10), Spec(None, ("tensor",))),  # what one axis leaves, the next may take
        (("heads", "mlp"), (4, 10), Spec(("tensor",), None)),  # and what it takes is gone
        (("batch", "embed"), (4, 10), Spec(("data", "fsdp"), None)),
        (("layers", "positions"), (4, 8), Spec(None, None)),
        ((), (), Spec()),
    ],
)
def test_a_logical_axis_takes_the_free_mesh_axes_that_divide_it(axes, shape, wanted):
    assert spec(axes, shape, make_mesh(CUBE)) == wanted


def test_a_misspelt_axis_is_an_error():
    with pytest.raises(KeyError, match="head"):
        spec(("head",), (4,), make_mesh(CUBE))
    with jax.set_mesh(make_mesh(CUBE)), pytest.raises(KeyError, match="baatch"):
        constrain(jnp.ones((4, 3)), "baatch", None)
    with pytest.raises(ValueError, match="zip"):
        spec(("batch",), (4, 3), make_mesh(CUBE))


def test_constrain_cuts_activations_on_a_mesh_and_is_nothing_without_one():
    x = jnp.ones((4, 6, 14))
    assert constrain(x, "batch", "time", "embed") is x
    with jax.set_mesh(make_mesh()):
        assert constrain(x, "batch", "time", "embed") is x
    mesh = make_mesh(CUBE)
    with jax.set_mesh(mesh):
        embedded = jax.jit(lambda x: constrain(x, "batch", "time", "embed"))(x)
        hidden = jax.jit(lambda x: constrain(x, "batch", "time", "mlp"))(x)
    assert embedded.sharding.is_equivalent_to(NamedSharding(mesh, Spec(("data", "fsdp"))), 3)  # embed is whole
    assert hidden.sharding.is_equivalent_to(NamedSharding(mesh, Spec(("data", "fsdp"), None, "tensor")), 3)


def test_time_is_cut_by_the_sequence_axis_alone():
    assert not sharding.time_is_cut()
    for config, cut in ((CUBE, False), (MeshConfig(sequence=2), True)):
        with jax.set_mesh(make_mesh(config)):
            assert sharding.time_is_cut() is cut


class Recorder(np.ndarray):
    """An array that notes the shape of every part read."""

    def __getitem__(self, index):
        part = np.asarray(self)[index]
        self.read.append(part.shape)
        return part


def test_place_reads_a_shard_for_each_device_and_nothing_else():
    batch = np.arange(4 * 6).reshape(4, 6).view(Recorder)
    batch.read = []
    place(batch, make_mesh(MeshConfig(data=2, tensor=2, sequence=2)), ("batch", "time"))
    assert batch.read == [(2, 3)] * 8


def test_place_cuts_rows_wherever_the_batch_axis_is():
    mesh = make_mesh(MeshConfig(data=2, sequence=2))
    batch = {"tokens": np.arange(4 * 6).reshape(4, 6), "rows": np.arange(4)}
    placed = place(batch, mesh, ("batch", "time"))
    jax.tree.map(np.testing.assert_array_equal, placed, batch)
    assert placed["tokens"].sharding == NamedSharding(mesh, Spec(("data",), ("sequence",)))
    assert placed["rows"].sharding == NamedSharding(mesh, Spec(("data",)))
    assert [shard.data.shape for shard in placed["tokens"].addressable_shards] == [(2, 3)] * 4
    block = place(np.zeros((3, 4, 6)), mesh, (None, "batch", "time"))
    assert block.sharding == NamedSharding(mesh, Spec(None, ("data",), ("sequence",)))


# Divisible by 8 rows, by 4 embed columns, heads, mlp and vocabulary; kv heads by 2 only, so that tensor=4 leaves them.
CUT = replace(TINY, vocab_size=28, context_length=18, d_model=20, n_heads=4, n_kv_heads=2, head_dim=6, d_ff=12)


@pytest.mark.parametrize(
    ("mesh", "cfg"),
    few(
        [
            (MeshConfig(data=8), CUT),
            (MeshConfig(fsdp=8), replace(CUT, d_model=40, scan_layers=True, remat="full")),
            (MeshConfig(data=2, tensor=4), CUT),
            (MeshConfig(data=4, tensor=2), replace(CUT, position="rotary", gated=True, tie_embeddings=False)),
            (CUBE, replace(CUT, position="relative", norm="rms", window=5)),
            (MeshConfig(data=2, fsdp=2, sequence=2), CUT),
            (MeshConfig(data=4, sequence=2), replace(CUT, tie_embeddings=False)),
        ],
        5,
    ),
    ids=["data=8", "fsdp=8", "2x4", "4x2", "2x2x2", "sequence=2", "sequence=2, untied"],
)
def test_eight_devices_compute_what_one_does(mesh, cfg):
    cfg = replace(cfg, n_layers=2 if cfg.scan_layers else 1)
    params = draw(gpt.declare(cfg))
    segments = np.sort(np.random.default_rng(0).integers(1, 4, (8, 18)), axis=1)
    batch = {"inputs": draw_tokens(cfg, 8, 18), "targets": draw_tokens(cfg, 8, 18, seed=2), "segments": segments}
    batch = jax.tree.map(np.asarray, batch)
    (loss, _), grads = jax.block_until_ready(loss_and_grads(params, batch, cfg))

    mesh = make_mesh(mesh)
    placed = jax.device_put(params, P.shardings(gpt.declare(cfg), mesh))
    with jax.set_mesh(mesh):
        (cut_loss, _), cut_grads = jax.block_until_ready(
            loss_and_grads(placed, place(batch, mesh, ("batch", "time")), cfg)
        )
    assert len(cut_loss.devices()) == 8
    np.testing.assert_allclose(cut_loss, loss, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), cut_grads, grads)


@pytest.mark.parametrize("tied", [True, False])
def test_logits_of_sequences_cut_in_two_are_those_of_one_device(tied):
    cfg = replace(CUT, n_layers=1, tie_embeddings=tied)
    params, tokens = draw(gpt.declare(cfg)), draw_tokens(cfg, 2, 18)
    wanted = np.asarray(apply(params, tokens, cfg))
    mesh = make_mesh(MeshConfig(sequence=2))
    params = jax.device_put(params, P.shardings(gpt.declare(cfg), mesh))
    with jax.set_mesh(mesh):
        logits = apply(params, place(np.asarray(tokens), mesh, ("batch", "time")), cfg)
    assert {shard.data.shape for shard in logits.addressable_shards} == {(2, 9, 28)}
    np.testing.assert_allclose(logits, wanted, atol=1e-5)


OURS = make_mesh(MeshConfig(data=2, tensor=2))
THEIRS = jax.make_mesh((2, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:4])


@pytest.mark.parametrize(("mesh", "rows"), [(OURS, "data"), (THEIRS, "x")], ids=["our axes", "other axes"])
def test_a_model_runs_in_the_callers_own_shard_map(mesh, rows):
    cfg = replace(CUT, n_layers=1)
    params, tokens = draw(gpt.declare(cfg)), draw_tokens(cfg, 4, 18)
    wanted = np.asarray(apply(params, tokens, cfg))
    part = jax.shard_map(
        lambda params, tokens: gpt.apply(params, tokens, cfg),
        mesh=mesh,
        in_specs=(Spec(), Spec(rows)),
        out_specs=Spec(rows),
    )
    np.testing.assert_allclose(jax.jit(part)(params, tokens), wanted, atol=1e-5)
    with jax.set_mesh(mesh):
        found = jax.jit(lambda params, tokens: gpt.apply(params, tokens, cfg))(params, tokens)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_program_on_a_mesh_keeps_its_activations_cut():
    """Each of 8 devices holds an eighth of the logits: nothing gathers the batch or the vocabulary."""
    mesh = make_mesh(CUBE)
    params = jax.device_put(draw(gpt.declare(CUT)), P.shardings(gpt.declare(CUT), mesh))
    with jax.set_mesh(mesh):
        logits = jax.jit(gpt.apply, static_argnums=2)(
            params, place(np.zeros((4, 18), int), mesh, ("batch", "time")), CUT
        )
    assert {shard.data.shape for shard in logits.addressable_shards} == {(1, 18, 14)}


def test_a_mesh_config_says_how_many_devices_it_uses():
    assert MeshConfig(data=2, fsdp=3, sequence=5, tensor=7).size == 210
