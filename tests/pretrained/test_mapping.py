"""Leaves out of file tensors and back, whole and cut along a mesh, against plain NumPy."""

import tracemalloc
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxgpt.pretrained.files import SINGLE, Weights, open_folder, write_folder
from jaxgpt.pretrained.mapping import Part, Stacked, Stored, check, file_tensors, load_tree
from jaxgpt.sharding import MeshConfig, make_mesh, named

D, H, G, K, F, V, L = 6, 4, 2, 3, 10, 7, 3
QKV = (H + 2 * G) * K

# Of each leaf: its shape, its logical axes, and where it is stored.
LEAVES = {
    "token": ((V, D), ("vocab", "embed"), Stored("wte.weight")),
    "norm": ((D,), ("embed",), Stored("norm.weight")),
    "query": ((D, H, K), ("embed", "heads", "head_dim"), Stored("q.weight", ((1, 2), (0,)))),
    "query_bias": ((H, K), ("heads", "head_dim"), Stored("q.bias", ((0, 1),))),
    "output": ((H, K, D), ("heads", "head_dim", "embed"), Stored("o.weight", ((2,), (0, 1)))),
    "convolved_output": ((H, K, D), ("heads", "head_dim", "embed"), Stored("c_proj.weight", ((0, 1), (2,)))),
    "row": ((V,), ("vocab",), Stored("final_logits_bias", ((), (0,)))),
    # Phi-3: rows of all queries, keys and values; and of gate and up.
    "q": ((D, H, K), ("embed", "heads", "head_dim"), Stored("qkv.weight", ((1, 2), (0,)), Part(0, 0, QKV))),
    "k": ((D, G, K), ("embed", "kv_heads", "head_dim"), Stored("qkv.weight", ((1, 2), (0,)), Part(0, H * K, QKV))),
    "v": ((D, G, K), ("embed", "kv_heads", None), Stored("qkv.weight", ((1, 2), (0,)), Part(0, (H + G) * K, QKV))),
    "gate": ((D, F), ("embed", "mlp"), Stored("gate_up.weight", ((1,), (0,)), Part(0, 0, 2 * F))),
    "up": ((D, F), ("embed", "mlp"), Stored("gate_up.weight", ((1,), (0,)), Part(0, F, 2 * F))),
    # GPT-2: columns of all three.
    "gpt2_query": ((D, H, K), ("embed", "heads", None), Stored("c_attn.weight", ((0,), (1, 2)), Part(1, 0, 3 * H * K))),
    "gpt2_key": ((D, H, K), ("embed", "heads", None), Stored("c_attn.weight", ((0,), (1, 2)), Part(1, 12, 3 * H * K))),
    "gpt2_value": ((D, H, K), ("embed", None, None), Stored("c_attn.weight", ((0,), (1, 2)), Part(1, 24, 3 * H * K))),
    "layers": (
        (L, D, H, K),
        ("layers", "embed", "heads", "head_dim"),
        Stacked(tuple(Stored(f"{i}.q.weight", ((1, 2), (0,))) for i in range(L))),
    ),
    "fused_layers": (
        (L, D, F),
        ("layers", "embed", "mlp"),
        Stacked(tuple(Stored(f"{i}.up.weight", ((1,), (0,)), Part(0, 0, F)) for i in range(L))),
    ),
}  # fmt: skip
MAPPING = {name: stored for name, (_, _, stored) in LEAVES.items()}


def draw():
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype(np.float32) for name, (shape, _, _) in LEAVES.items()}


def linear(kernel, inputs):
    """torch's Linear.weight of a kernel whose first axes are the inputs."""
    return kernel.reshape(inputs, -1).T


def stored(p):
    """The file of these leaves, by hand."""
    return {
        "wte.weight": p["token"],
        "norm.weight": p["norm"],
        "q.weight": linear(p["query"], D),
        "q.bias": p["query_bias"].ravel(),
        "o.weight": linear(p["output"], H * K),
        "c_proj.weight": p["convolved_output"].reshape(H * K, D),
        "final_logits_bias": p["row"][None],
        "qkv.weight": np.concatenate([linear(p[name], D) for name in "qkv"]),
        "gate_up.weight": np.concatenate([linear(p[name], D) for name in ("gate", "up")]),
        "c_attn.weight": np.concatenate([p[f"gpt2_{x}"].reshape(D, H * K) for x in ("query", "key", "value")], axis=1),
        **{f"{i}.q.weight": linear(p["layers"][i], D) for i in range(L)},
        **{f"{i}.up.weight": linear(p["fused_layers"][i], D) for i in range(L)},
    }


def abstract(dtype=jnp.float32, mesh=None):
    return {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=mesh and named(axes, shape, mesh))
        for name, (shape, axes, _) in LEAVES.items()
    }


@dataclass(frozen=True)
class Counted(Weights):
    """Weights that write down how many numbers they gave."""

    counts: list[int] = field(default_factory=list)

    def read(self, name, index):
        x = super().read(name, index)
        self.counts.append(x.size)
        return x


def save(folder, tensors):
    write_folder(folder, tensors.items(), max_shard_bytes=10**9)
    weights = open_folder(folder)
    return Counted(weights.folder, weights.tensors)


@pytest.fixture
def weights(tmp_path):
    return save(tmp_path, stored(draw()))


def assert_same(tree, expected):
    assert tree.keys() == expected.keys()
    for name, x in tree.items():
        assert x.dtype == expected[name].dtype, name
        assert np.asarray(x).tobytes() == np.asarray(expected[name]).tobytes(), name


# loading


def test_each_leaf_is_found_where_it_is_stored(weights):
    loaded = load_tree(MAPPING, abstract(), weights)
    assert_same(loaded, draw())
    assert all(isinstance(x, jax.Array) for x in loaded.values())
    assert sum(weights.counts) == sum(x.size for x in loaded.values())


MESHES = [
    MeshConfig(fsdp=2, tensor=2),
    MeshConfig(data=2, fsdp=2, tensor=2),
    MeshConfig(fsdp=3),
    MeshConfig(tensor=4),
    MeshConfig(data=8),
]


@pytest.mark.parametrize("config", MESHES, ids=lambda c: f"data{c.data}-fsdp{c.fsdp}-tensor{c.tensor}")
def test_shards_are_read_as_the_whole_is_each_number_once(weights, config):
    mesh = make_mesh(config, jax.devices()[: config.size])
    structs = abstract(mesh=mesh)
    loaded = load_tree(MAPPING, structs, weights)
    assert_same(loaded, draw())
    for name, x in loaded.items():
        assert x.sharding == structs[name].sharding
    assert sum(weights.counts) == sum(x.size for x in loaded.values())  # by replicas too


def test_a_shard_reads_its_own_part_of_the_file(weights):
    mesh = make_mesh(MeshConfig(fsdp=2, tensor=2), jax.devices()[:4])
    for name, (shape, axes, stored) in LEAVES.items():
        for index in named(axes, shape, mesh).devices_indices_map(shape).values():
            weights.counts.clear()
            part = stored.read(weights, shape, index, np.dtype(np.float32))
            assert np.array_equal(part, draw()[name][index])
            assert sum(weights.counts) == part.size


def test_of_a_stack_the_layers_asked_for_are_read(weights):
    index = (slice(1, 3), slice(2, 6), slice(None), slice(0, 2))
    part = MAPPING["layers"].read(weights, (L, D, H, K), index, np.dtype(np.float32))
    assert np.array_equal(part, draw()["layers"][index])
    assert len(weights.counts) == 2


def test_any_layout_and_any_slice_is_numpys(tmp_path):
    rng = np.random.default_rng(1)
    for case in range(150):
        shape = tuple(rng.integers(1, 6, rng.integers(1, 5)).tolist())
        ends = sorted({*rng.integers(1, len(shape) + 1, 2).tolist(), len(shape)})
        runs = [tuple(range(start, end)) for start, end in zip([0, *ends], ends, strict=False)]
        axes = tuple(runs[i] for i in rng.permutation(len(runs)))
        leaf = rng.normal(size=shape).astype(np.float32)
        file = leaf.transpose([i for run in axes for i in run]).reshape(
            [int(np.prod([shape[i] for i in run])) for run in axes]
        )
        along, before, after = int(rng.integers(len(axes))), *(int(n) for n in rng.integers(0, 3, 2))
        part = Part(along, before, before + file.shape[along] + after)
        pad = [(before, after) if i == along else (0, 0) for i in range(file.ndim)]
        weights = save(tmp_path / f"{case}", {"x": np.pad(file, pad, constant_values=9)})
        starts = [int(rng.integers(n)) for n in shape]
        index = tuple(slice(a, int(rng.integers(a + 1, n + 1))) for a, n in zip(starts, shape, strict=True))
        entry = Stored("x", axes, part)
        assert entry.shape(shape) == weights.tensors["x"].shape
        assert np.array_equal(entry.read(weights, shape, index, leaf.dtype), leaf[index])
        assert np.array_equal(entry.write(leaf), file)


@pytest.mark.parametrize("held", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_numbers_are_rounded_once(tmp_path, held, dtype):
    tensors = {name: x.astype(jnp.dtype(held)) for name, x in stored(draw()).items()}
    loaded = load_tree(MAPPING, abstract(jnp.dtype(dtype)), save(tmp_path, tensors))
    assert_same(loaded, {name: x.astype(jnp.dtype(held)).astype(jnp.dtype(dtype)) for name, x in draw().items()})


def test_without_a_sharding_a_leaf_is_on_the_default_device(weights):
    with jax.default_device(jax.devices()[3]):
        loaded = load_tree(MAPPING, abstract(), weights)
    assert all(x.devices() == {jax.devices()[3]} for x in loaded.values())
    on_mesh = jax.device_put(np.zeros(8), jax.NamedSharding(jax.make_mesh((8,), ("x",)), jax.P("x")))
    assert (jax.jit(lambda x, y: x.sum() + y)(loaded["norm"], on_mesh)).shape == (8,)  # free to go where it is needed


def test_the_host_holds_the_arrays_and_a_tensor_more(tmp_path):
    """Twenty tensors of a megabyte: the arrays are the very memory that was read into, and a file tensor beside it."""
    size = 2**20
    mapping = [Stored(f"{i}", ((1,), (0,))) for i in range(20)]
    save(tmp_path, {f"{i}": np.full((1024, 256), i, np.float32) for i in range(20)})
    weights = open_folder(tmp_path)
    structs = [jax.ShapeDtypeStruct((256, 1024), jnp.float32)] * 20
    load_tree(mapping, structs, weights)  # what JAX and the library need at first
    tracemalloc.start()
    loaded = load_tree(mapping, structs, weights)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [float(x[-1, -1]) for x in loaded] == list(range(20))
    assert 20 * size <= held < 20.2 * size
    assert peak < 21.2 * size


def test_an_array_is_the_memory_that_was_read_into(tmp_path):
    """A copy would hold each leaf twice for a while; JAX copies what is not on a multiple of 64 bytes."""
    weights = save(tmp_path, stored(draw()))
    for name, (shape, _, entry) in LEAVES.items():
        x = entry.read(weights, shape, (slice(None),) * len(shape), np.dtype(np.float32))
        assert jax.device_put(x).unsafe_buffer_pointer() == x.ctypes.data, name


# refusing


def refused(weights, match, ignore=()):
    with pytest.raises(ValueError, match=match):
        load_tree(MAPPING, abstract(), weights, ignore)
    assert weights.counts == []  # before anything is read


def test_a_missing_tensor_is_named_with_its_shape(tmp_path):
    tensors = stored(draw())
    del tensors["qkv.weight"]
    refused(save(tmp_path, tensors), rf"{tmp_path}: missing tensors: found 1, expected none: qkv\.weight \(24, 6\)$")


def test_of_many_missing_tensors_five_are_named(tmp_path):
    weights = save(tmp_path, {"norm.weight": draw()["norm"]})
    refused(weights, r"missing tensors: found 15, expected none: c_proj\.weight \(12, 6\), .* and 10 more$")


@pytest.mark.parametrize("name", stored(draw()))
def test_a_misshapen_tensor_is_named_with_both_shapes(tmp_path, name):
    tensors = stored(draw())
    shape = tensors[name].shape
    tensors[name] = np.pad(tensors[name], [(0, 1)] + [(0, 0)] * (len(shape) - 1))
    found = str(tensors[name].shape).replace("(", r"\(").replace(")", r"\)")
    expected = str(shape).replace("(", r"\(").replace(")", r"\)")
    refused(save(tmp_path, tensors), rf"{tmp_path / SINGLE}: shape of {name}: found {found}, expected {expected}$")


def test_integers_are_refused_where_they_are_asked_for(tmp_path):
    tensors = stored(draw()) | {"norm.weight": np.arange(D)}
    refused(
        save(tmp_path, tensors), r"model\.safetensors: dtype of norm\.weight: found 'I64', expected one of F64, F32"
    )


def test_tensors_beyond_the_mapping_are_named_unless_they_are_ignored(tmp_path):
    extra = {f"{i}.rotary_emb.inv_freq": np.zeros(2, np.float32) for i in range(6)}
    weights = save(tmp_path, stored(draw()) | extra | {"position_ids": np.arange(3)})
    refused(weights, r"unknown tensors: found 7, expected none: 0\.rotary_emb\.inv_freq \(2,\), .* and 2 more$")
    refused(weights, r"unknown tensors: found 1, expected none: position_ids \(3,\)$", ["*.rotary_emb.inv_freq"])
    assert_same(load_tree(MAPPING, abstract(), weights, ["*.rotary_emb.inv_freq", "position_ids"]), draw())


A, B = Part(0, 0, 4), Part(0, 2, 4)


GAP, OVERLAP, LONGER, ACROSS = Part(0, 3, 4), Part(0, 1, 4), Part(0, 2, 5), Part(1, 2, 4)


@pytest.mark.parametrize(
    "parts", [(A, None), (None, None), (A,), (B,), (A, A), (A, GAP), (A, OVERLAP), (A, LONGER), (A, ACROSS)]
)
def test_parts_that_are_not_the_whole_are_refused(tmp_path, parts):
    mapping = [Stored("x", part=part) for part in parts]
    structs = [jax.ShapeDtypeStruct((2, 2), jnp.float32)] * len(parts)
    weights = save(tmp_path, {"x": np.zeros((4, 2), np.float32)})
    check([Stored("x", part=A), Stored("x", part=B)], structs[:1] * 2, weights)
    with pytest.raises(ValueError, match=r"mapping of x: found .*, expected parts that make up the whole"):
        check(mapping, structs, weights)


def test_a_stack_of_another_number_of_layers_is_refused(weights):
    mapping = {"layers": Stacked(MAPPING["layers"].layers[:2])}
    with pytest.raises(ValueError, match="layers of a leaf: found 3, expected 2"):
        check(mapping, {"layers": abstract()["layers"]}, weights)


@pytest.mark.parametrize("axes", [((1, 0),), ((0, 2), (1,)), ((0,), (0,)), ((0,), (2,)), ((1,), (2,))])
def test_axes_that_are_no_runs_of_neighbours_are_refused(axes):
    with pytest.raises(ValueError, match="axes of x: found"):
        Stored("x", axes)


# and back


@pytest.mark.parametrize(
    ("dtype", "config"), [("float32", None), ("bfloat16", None), ("float16", None), ("bfloat16", MESHES[1])], ids=str
)
def test_what_was_loaded_is_saved_bit_for_bit(tmp_path, dtype, config):
    """Any bits: those of NaNs and of numbers below the normal ones too."""
    rng = np.random.default_rng(2)
    kind = jnp.dtype(dtype)
    tensors = {
        name: np.frombuffer(rng.bytes(x.size * kind.itemsize), kind).reshape(x.shape)
        for name, x in stored(draw()).items()
    }
    save_file({name: x.copy() for name, x in tensors.items()}, tmp_path / SINGLE, {"format": "pt"})
    mesh = config and make_mesh(config, jax.devices()[: config.size])
    loaded = load_tree(MAPPING, abstract(kind, mesh), open_folder(tmp_path))
    write_folder(tmp_path / "saved", file_tensors(MAPPING, loaded), max_shard_bytes=10**9)
    assert_same(load_file(tmp_path / "saved" / SINGLE), tensors)


def test_tensors_are_made_one_by_one():
    leaves = {"a": jnp.ones((2, 3)), "b": jnp.ones(2)}
    made = file_tensors({"a": Stored("x", ((1,), (0,))), "b": Stored("y")}, leaves)
    leaves["b"].delete()  # not needed for the first
    name, x = next(made)
    assert (name, x.shape) == ("x", (3, 2))
