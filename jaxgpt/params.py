"""Parameters, declared once: from one tree of `Param` come arrays, shapes, shardings, decay mask and count."""

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from flax import traverse_util
from jax.nn import initializers
from jaxtyping import Array, Key, PyTree

from jaxgpt import sharding


@dataclass(frozen=True)
class Param:
    """One parameter: its shape, the logical name of each axis, how it starts, and whether weight decay acts on it."""

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    init: Callable[..., Array]
    decay: bool = True

    def __post_init__(self):
        if len(self.shape) != len(self.axes):
            raise ValueError(f"Param: found {len(self.axes)} axes {self.axes}, expected one for each of {self.shape}")


Declarations = PyTree[Param]


def weight(shape: tuple[int, ...], axes: tuple[str | None, ...], std: float) -> Param:
    """A matrix drawn from a normal distribution."""
    return Param(shape, axes, initializers.normal(std))


def bias(shape: tuple[int, ...], axes: tuple[str | None, ...]) -> Param:
    """Zeros at first, never decayed."""
    return Param(shape, axes, initializers.zeros, decay=False)


def scale(shape: tuple[int, ...], axes: tuple[str | None, ...]) -> Param:
    """Ones at first, never decayed."""
    return Param(shape, axes, initializers.ones, decay=False)


def stack(declarations: Declarations, n: int) -> Declarations:
    """The same declarations, `n` times along a new leading axis "layers"."""
    return jax.tree.map(lambda p: replace(p, shape=(n, *p.shape), axes=("layers", *p.axes)), declarations)


def by_layer(declarations: Declarations) -> Declarations:
    """The same declarations with a tuple of one tree a layer in place of each stack."""

    def walk(tree, name=""):
        if name != "layers":
            return {key: walk(branch, key) for key, branch in tree.items()} if isinstance(tree, dict) else tree
        one = jax.tree.map(lambda p: replace(p, shape=p.shape[1:], axes=p.axes[1:]), tree)
        return (one,) * jax.tree.leaves(tree)[0].shape[0]

    return walk(declarations)


def unstack(params: PyTree[Array] | tuple, n: int) -> tuple[PyTree[Array], ...]:
    """One tree a layer out of stacked parameters; a tuple, which is unstacked already, is returned as it is."""
    if isinstance(params, tuple):
        return params
    # lax.split, not indexing: its gradient is one concatenation; n indexed slices would add n padded copies.
    split = jax.tree.map(lambda x: [jnp.squeeze(y, 0) for y in jax.lax.split(x, (1,) * n)], params)
    return tuple(jax.tree.map(lambda _, ys: ys[i], params, split) for i in range(n))  # noqa: B023


def init(key: Key[Array, ""], declarations: Declarations, mesh: jax.sharding.Mesh | None = None) -> PyTree[Array]:
    """Draw every parameter, in one compiled program, each straight into its shards when a mesh is given.

    A leaf's key is folded from its path, so that adding a parameter changes no other's draw.
    """

    def draw(key):
        flat = traverse_util.flatten_dict(declarations, sep="/")
        keys = {path: jax.random.fold_in(key, zlib.crc32(path.encode())) for path in flat}
        return traverse_util.unflatten_dict({path: p.init(keys[path], p.shape) for path, p in flat.items()}, sep="/")

    placed = None if mesh is None else shardings(declarations, mesh)
    # LLVM at its full level takes 6.4 s to compile GPT-2 124M's draws, and at this one 0.9 s, for the same numbers.
    traced = isinstance(key, jax.core.Tracer)  # within another program, whose options hold
    options = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" and not traced else None
    return jax.jit(draw, out_shardings=placed, compiler_options=options)(key)


def abstract(
    declarations: Declarations, mesh: jax.sharding.Mesh | None = None, dtype: str = "float32"
) -> PyTree[jax.ShapeDtypeStruct]:
    """Shapes (and shardings) without arrays: for restoring, and for compiling ahead of time."""

    def struct(p: Param):
        placed = None if mesh is None else sharding.named(p.axes, p.shape, mesh)
        return jax.ShapeDtypeStruct(p.shape, jnp.dtype(dtype), sharding=placed)

    return jax.tree.map(struct, declarations)


def shardings(declarations: Declarations, mesh: jax.sharding.Mesh) -> PyTree[jax.sharding.NamedSharding]:
    """Where each parameter lives on a mesh, by the rules of `sharding.RULES`."""
    return jax.tree.map(lambda p: sharding.named(p.axes, p.shape, mesh), declarations)


def decay_mask(declarations: Declarations) -> PyTree[bool]:
    """True where weight decay acts: matrices and embeddings, not biases and norm scales."""
    return jax.tree.map(lambda p: p.decay, declarations)


def count(declarations: Declarations) -> int:
    """Number of parameters."""
    return sum(math.prod(p.shape) for p in jax.tree.leaves(declarations))


def cast(params: PyTree[Array], dtype: str) -> PyTree[Array]:
    """The parameters in the dtype of the computation; gradients still arrive in the parameters' own."""
    return jax.tree.map(lambda x: x.astype(dtype), params)
