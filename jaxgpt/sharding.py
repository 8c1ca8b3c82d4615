"""Where arrays live: the mesh, the logical axis names, and the one table that maps names to mesh axes."""

from dataclasses import dataclass, fields

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from jaxgpt.checks import check_types, require

# A logical axis takes the mesh axes of its row that still divide it and that no earlier axis of the array took.
RULES: dict[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    "time": ("sequence",),
    "embed": ("fsdp",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
    "vocab": ("tensor",),
    "head_dim": (),
    "positions": (),
    "dense": (),
    "classes": (),
    "layers": (),
}
ACTIVATIONS = RULES | {"embed": ()}  # the batch has taken fsdp


@dataclass(frozen=True)
class MeshConfig:
    """How many devices each mesh axis has; their product is the number of devices used."""

    data: int = 1
    """Copies of the model, each on its part of the batch."""
    fsdp: int = 1
    """Parts that parameters and optimizer state are cut into; the batch is cut along too."""
    sequence: int = 1
    """Parts that activations are cut into along time."""
    tensor: int = 1
    """Parts that heads, MLP and vocabulary are cut into."""

    def __post_init__(self):
        check_types(self, "mesh")
        for field in fields(self):
            size = getattr(self, field.name)
            require(size >= 1, f"mesh.{field.name}", size, "a positive integer")

    @property
    def size(self) -> int:
        return self.data * self.fsdp * self.sequence * self.tensor


def make_mesh(config: MeshConfig = MeshConfig(), devices: list | None = None) -> Mesh:
    """The mesh ("data", "fsdp", "sequence", "tensor") over the first devices, or all of them of several hosts.

    Raises ValueError if the mesh does not divide the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    axes = {field.name: getattr(config, field.name) for field in fields(config)}
    sizes = " x ".join(f"{name}={size}" for name, size in axes.items())
    if len(devices) % config.size:
        raise ValueError(f"mesh: found {sizes} = {config.size}, expected a divisor of the {len(devices)} devices")
    if jax.process_count() > 1 and config.size != len(devices):
        raise ValueError(f"mesh: found {sizes} = {config.size}, expected all {len(devices)} devices of the processes")
    grid = np.array(devices[: config.size]).reshape(tuple(axes.values()))
    return Mesh(grid, tuple(axes), axis_types=(AxisType.Auto,) * len(axes))


def cut_axes(mesh) -> dict[str, int]:
    """The mesh axes of more than one device that the compiler cuts arrays along, with their sizes.

    Not those of a `shard_map` around the caller: what it passes in is cut along them already.
    """
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return {name: mesh.shape[name] for name, kind in kinds if kind == AxisType.Auto and mesh.shape[name] > 1}


def spec(axes: tuple[str | None, ...], shape: tuple[int, ...], mesh, rules=RULES) -> PartitionSpec:
    """Mesh axes for an array with these logical axes. Raises KeyError for a name that is not in the table."""
    cut = cut_axes(mesh)
    out, used = [], set()
    for name, size in zip(axes, shape, strict=True):
        taken, parts = [], 1
        for axis in rules[name] if name is not None else ():
            if axis in cut and axis not in used and size % (parts * cut[axis]) == 0:
                taken.append(axis)
                used.add(axis)
                parts *= cut[axis]
        out.append(tuple(taken) or None)
    return PartitionSpec(*out)


def named(axes: tuple[str | None, ...], shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """`spec`, with its mesh."""
    return NamedSharding(mesh, spec(axes, shape, mesh))


def constrain(x: Array, *axes: str | None) -> Array:
    """Keep an activation cut along these logical axes on the mesh in use; without a mesh, `x` as it is."""
    mesh = jax.sharding.get_abstract_mesh()
    if not cut_axes(mesh):
        return x
    return jax.lax.with_sharding_constraint(x, spec(axes, x.shape, mesh, ACTIVATIONS))


def time_is_cut() -> bool:
    """Whether the mesh in use cuts sequences into parts."""
    return "sequence" in cut_axes(jax.sharding.get_abstract_mesh())


def place(batch: PyTree, mesh: Mesh, axes: tuple[str | None, ...]) -> PyTree[Array]:
    """A batch cut along these logical axes; every process has all of it and copies what its own devices hold."""

    def put(x):
        return jax.make_array_from_callback(x.shape, named(axes[: x.ndim], x.shape, mesh), x.__getitem__)

    return jax.tree.map(put, batch)
