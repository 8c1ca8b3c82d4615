"""Where each parameter lies in the tensors of a file, as data; and the trees that are read and written by it.

A mapping is a tree like the parameters', with a `Stored` or a `Stacked` for each leaf.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from itertools import accumulate
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, PyTree

from jaxgpt.checks import require
from jaxgpt.pretrained.files import FLOATS, Weights
from jaxgpt.sharding import fetch

Shape = tuple[int, ...]
Index = tuple[slice, ...]

_BLOCK = 16  # rows copied at once when a matrix is transposed: 12 -> 4 ns a number


@dataclass(frozen=True)
class Part:
    """A leaf that is rows `start` onwards of the `whole` rows that the file tensor has along its axis `axis`."""

    axis: int
    start: int
    whole: int


@dataclass(frozen=True)
class Stored:
    """A leaf in the file tensor `name`.

    axes: for each axis of the file tensor, the neighbouring axes of the leaf that it runs over, outermost first.
        ((1, 2), (0,)): torch's Linear.weight (outputs, inputs), of a kernel (d_model, heads, head_dim).
        ((), (0,)): a row (1, n), of a vector (n,). None: as the leaf has them.
    part: the leaf is this part of the file tensor; None: all of it.
    """

    name: str
    axes: tuple[tuple[int, ...], ...] | None = None
    part: Part | None = None

    def __post_init__(self):
        if self.axes is not None:
            runs = [axis for run in sorted(self.axes) for axis in run]
            require(runs == list(range(len(runs))), f"axes of {self.name}", self.axes, "runs of neighbours, each once")

    def shape(self, leaf: Shape) -> Shape:
        """The whole file tensor's shape, for a leaf of this one."""
        shape = [math.prod(leaf[axis] for axis in run) for run in self._runs(leaf)]
        if self.part is not None:
            shape[self.part.axis] = self.part.whole
        return tuple(shape)

    def read(self, weights: Weights, leaf: Shape, index: Index, dtype: np.dtype) -> np.ndarray:
        """The slice `index` of the leaf, whose shape is `leaf`, reading that range of the file tensor alone.

        A file axis that runs over several axes is read in whole steps of the first: heads, of heads and head_dim.
        """
        runs = self._runs(leaf)
        index = tuple(slice(*along.indices(n)) for along, n in zip(index, leaf, strict=True))
        cut = [along.stop - along.start for along in index]
        ranges, steps, within = [], [], []
        for run in runs:
            first, rest = (index[run[0]], run[1:]) if run else (slice(0, 1), ())
            inner = math.prod(leaf[axis] for axis in rest)
            ranges.append(slice(first.start * inner, first.stop * inner))
            steps += [first.stop - first.start, *(leaf[axis] for axis in rest)]
            within += [slice(None), *(index[axis] for axis in rest)]
        if self.part is not None:
            along = ranges[self.part.axis]
            ranges[self.part.axis] = slice(along.start + self.part.start, along.stop + self.part.start)
        x = weights.read(self.name, tuple(ranges)).reshape(steps)[tuple(within)]
        x = x.reshape([math.prod(cut[axis] for axis in run) for run in runs])
        return _transposed(x, _order(runs), dtype).reshape(cut)

    def write(self, leaf: np.ndarray) -> np.ndarray:
        """The leaf as the file tensor, or as its part, has it."""
        runs = self._runs(leaf.shape)
        order = _order(runs)
        merged = [math.prod(leaf.shape[axis] for axis in runs[i]) for i in order]
        return _transposed(leaf.reshape(merged), np.argsort(order), leaf.dtype)

    def _runs(self, leaf: Shape) -> tuple[tuple[int, ...], ...]:
        return tuple((axis,) for axis in range(len(leaf))) if self.axes is None else self.axes


@dataclass(frozen=True)
class Stacked:
    """A leaf with a leading axis of layers, each stored by itself."""

    layers: tuple[Stored, ...]

    def read(self, weights: Weights, leaf: Shape, index: Index, dtype: np.dtype) -> np.ndarray:
        """As `Stored.read`, of the layers in the slice alone."""
        along, *rest = (slice(*along.indices(n)) for along, n in zip(index, leaf, strict=True))
        layers = self.layers[along]
        out = _empty((len(layers), *(i.stop - i.start for i in rest)), dtype)
        for i, layer in enumerate(layers):
            out[i] = layer.read(weights, leaf[1:], tuple(rest), dtype)
        return out


Mapping = PyTree[Stored | Stacked]


def load_tree(
    mapping: Mapping, abstract: PyTree[jax.ShapeDtypeStruct], weights: Weights, ignore: Iterable[str] = ()
) -> PyTree[Array]:
    """The parameters in `abstract`'s shapes, dtypes and shardings (none: on the default device), leaf by leaf.

    Each process reads what its own devices hold, each slice once. At most a file tensor's numbers are in memory
    beside the arrays, and on an accelerator a leaf on its way there.
    ignore: as for `check`, which comes first and raises the ValueErrors.
    """
    check(mapping, abstract, weights, ignore)
    return jax.tree.map(partial(_load, weights), mapping, abstract)


def _load(weights: Weights, entry: Stored | Stacked, struct: jax.ShapeDtypeStruct) -> Array:
    pieces = {}  # replicas hold the same

    def piece(index: Index) -> np.ndarray:
        key = str(index)
        if key not in pieces:
            pieces[key] = entry.read(weights, struct.shape, index, struct.dtype)
        return pieces[key]

    if struct.sharding is None:
        array = jax.device_put(piece((slice(None),) * len(struct.shape)))
    else:
        array = jax.make_array_from_callback(struct.shape, struct.sharding, piece)
    return array.block_until_ready()  # or the host would hold all that waits for a transfer


def check(
    mapping: Mapping, abstract: PyTree[jax.ShapeDtypeStruct], weights: Weights, ignore: Iterable[str] = ()
) -> None:
    """Raise ValueError unless the files hold the mapping's tensors, of the leaves' shapes, and no others.

    ignore: patterns of names ("*.rotary_emb.inv_freq") that may be there besides, and are not read.
    """
    expected = {name: held[0].entry.shape(held[0].shape) for name, held in _by_tensor(mapping, abstract).items()}
    found = weights.tensors
    if missing := [name for name in expected if name not in found]:
        shapes = ", ".join(f"{name} {expected[name]}" for name in missing[:5])
        raise ValueError(
            f"{weights.folder}: missing tensors: found {len(missing)}, expected none: {shapes}{_more(missing)}"
        )
    for name, shape in expected.items():
        file, held, dtype = found[name]
        require(held == shape, f"{file}: shape of {name}", held, str(shape))
        require(dtype in FLOATS, f"{file}: dtype of {name}", dtype, f"one of {', '.join(FLOATS)}")
    ignore = tuple(ignore)
    extra = [name for name in found.keys() - expected if not any(fnmatchcase(name, pattern) for pattern in ignore)]
    if extra := sorted(extra):
        shapes = ", ".join(f"{name} {found[name].shape}" for name in extra[:5])
        raise ValueError(
            f"{weights.folder}: unknown tensors: found {len(extra)}, expected none: {shapes}{_more(extra)}"
        )


def _more(names: list[str]) -> str:
    return f" and {len(names) - 5} more" if len(names) > 5 else ""


def file_tensors(mapping: Mapping, params: PyTree[Array]) -> Iterator[tuple[str, np.ndarray]]:
    """The parameters, wherever their parts are, as the file's tensors, each made when it is asked for.

    A call that all processes make, each of which gets every tensor.
    """
    for name, held in _by_tensor(mapping, params).items():
        arrays = [entry.write(fetch(leaf if layer is None else leaf[layer])) for entry, leaf, layer in held]
        part = held[0].entry.part
        yield name, arrays[0] if part is None else np.concatenate(arrays, part.axis)


class _Held(NamedTuple):
    """A leaf, or the layer of it, that is stored by this entry."""

    entry: Stored
    leaf: Array | jax.ShapeDtypeStruct
    layer: int | None

    @property
    def shape(self) -> Shape:
        return self.leaf.shape if self.layer is None else self.leaf.shape[1:]


def _by_tensor(mapping: Mapping, tree: PyTree) -> dict[str, list[_Held]]:
    """What each file tensor holds, its parts in their order. Raises ValueError where they aren't the whole."""
    entries, structure = jax.tree.flatten(mapping)
    tensors: dict[str, list[_Held]] = {}
    for entry, leaf in zip(entries, structure.flatten_up_to(tree), strict=True):
        if isinstance(entry, Stored):
            tensors.setdefault(entry.name, []).append(_Held(entry, leaf, None))
        else:
            require(len(entry.layers) == leaf.shape[0], "layers of a leaf", leaf.shape[0], f"{len(entry.layers)}")
            for layer, stored in enumerate(entry.layers):
                tensors.setdefault(stored.name, []).append(_Held(stored, leaf, layer))
    for name, held in tensors.items():
        held.sort(key=lambda one: one.entry.part.start if one.entry.part else 0)
        _check_parts(name, held)
    return tensors


def _check_parts(name: str, held: list[_Held]) -> None:
    parts = [one.entry.part for one in held]
    if parts == [None]:
        return
    alike = None not in parts and len({(one.entry.shape(one.shape), one.entry.part.axis) for one in held}) == 1
    sizes = [replace(one.entry, part=None).shape(one.shape)[one.entry.part.axis] for one in held] if alike else []
    ends = list(accumulate(sizes))
    whole = alike and [part.start for part in parts] == [0, *ends[:-1]] and ends[-1] == parts[0].whole
    require(whole, f"mapping of {name}", parts, "parts that make up the whole")


def _order(runs: tuple[tuple[int, ...], ...]) -> list[int]:
    """The file axes in the order in which the leaf has them; one over no axis, of size 1, stands anywhere."""
    return sorted(range(len(runs)), key=lambda i: runs[i])


def _transposed(x: np.ndarray, order: Sequence[int] | np.ndarray, dtype: np.dtype) -> np.ndarray:
    """A copy of x.transpose(order) in this dtype."""
    out = _empty([x.shape[axis] for axis in order], dtype)
    view = out.transpose(np.argsort(order))
    for i in range(0, len(x), _BLOCK):
        view[i : i + _BLOCK] = x[i : i + _BLOCK]
    return out


def _empty(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """np.empty on a multiple of 64 bytes: JAX on a CPU uses such memory as it is, and copies any other."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    room = np.empty(size + 64, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + size].view(dtype).reshape(shape)
