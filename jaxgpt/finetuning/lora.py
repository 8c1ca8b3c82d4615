"""LoRA (Hu et al. 2021): kernels stay as they are, and what is trained is a product of two thin matrices beside each.

A transformation of the tree of parameters: the functions of the models know nothing of it.
"""

import math
import zlib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial

import jax
import jax.numpy as jnp
from flax import traverse_util
from jax.nn import initializers
from jaxtyping import Array, Key

from jaxgpt import params as P
from jaxgpt.checks import check_types, nearest, require
from jaxgpt.feedforward import dropout
from jaxgpt.params import Declarations, Param


@dataclass(frozen=True)
class LoRAConfig:
    """Which kernels get an adapter, and what it is."""

    rank: int = 8
    """Columns of a and rows of b, the two matrices beside a kernel."""
    alpha: float = 16.0
    """Their product is multiplied by alpha / rank."""
    dropout: float = 0.0
    """Probability of zeroing what a reads of an input feature; acts only where a key is passed."""
    targets: tuple[str, ...] = ("query", "value")
    """Which kernels: parts of their paths in the tree, "value", "mlp/up" or "decoder/layers/cross/*" say."""

    def __post_init__(self):
        check_types(self, "lora")
        require(self.rank >= 1, "lora.rank", self.rank, "a positive integer")
        require(self.alpha > 0, "lora.alpha", self.alpha, "a number above 0")
        require(0 <= self.dropout < 1, "lora.dropout", self.dropout, "a number in [0, 1)")
        require(len(self.targets) > 0, "lora.targets", self.targets, "at least one")

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


def declare(declarations: Declarations, cfg: LoRAConfig) -> Declarations:
    """The adapter of a model with these declarations, layers stacked: {"a", "b"} in place of each target's parameters.

    a: (*inputs, rank), b: (rank, *outputs) for a kernel (*inputs, *outputs), a stack of each for a stack.
    a is drawn as PEFT draws it, uniform within 1 / sqrt(inputs), and b is zero: at first nothing changes.
    Raises ValueError, with the names there are, for a target that is none of the kernels'.
    """
    flat = traverse_util.flatten_dict(declarations, sep="/")
    kernels = {path.removesuffix("/kernel"): param for path, param in flat.items() if path.endswith("/kernel")}
    for target in cfg.targets:
        known = any(_matches(target, path) for path in kernels)
        require(known, "lora.targets", target, f"a part of {nearest(target, kernels)}")
    chosen = [path for path in kernels if any(_matches(target, path) for target in cfg.targets)]
    return traverse_util.unflatten_dict({path: _pair(kernels[path], cfg.rank) for path in chosen}, sep="/")


def _matches(target: str, path: str) -> bool:
    return fnmatchcase(f"/{path}/", f"*/{target}/*")


def _pair(kernel: Param, rank: int) -> dict[str, Param]:
    first = int(kernel.axes[0] == "layers")
    last = first + (2 if kernel.axes[first] == "heads" else 1)  # of the inputs, which the output's are heads
    bound = 1 / math.sqrt(math.prod(kernel.shape[first:last]))
    uniform = partial(jax.random.uniform, minval=-bound, maxval=bound)
    shape, axes = kernel.shape, kernel.axes
    return {
        "a": Param((*shape[:last], rank), (*axes[:last], None), uniform),
        "b": Param((*shape[:first], rank, *shape[last:]), (*axes[:first], None, *axes[last:]), initializers.zeros),
    }


def adapt(params: dict, adapter: dict, cfg: LoRAConfig, *, key: Key[Array, ""] | None = None) -> dict:
    """The parameters with alpha / rank * a b added to each target's kernel; every other array is the one given.

    For a step of training, which differentiates this by the adapter alone, and to merge the two for good.
    params: layers stacked, or a tuple of one tree each; the adapter's are stacked, as `declare` has them.
    key: drops rows of a, one draw for all tokens of the batch. The paper drops the inputs that a reads, for each token
    anew: the same in the mean, but a product that is added to a kernel has no tokens.
    Raises ValueError for an adapter of another model.
    Source: Hu et al. 2021, section 4.1, equation 3.
    """
    return _changed(params, adapter, cfg.scale, cfg.dropout, key)


def unmerge(params: dict, adapter: dict, cfg: LoRAConfig) -> dict:
    """The inverse of `adapt` without a key, but for what the kernels' dtype rounds."""
    return _changed(params, adapter, -cfg.scale, 0.0, None)


def _changed(
    params: dict | tuple, adapter: dict, scale: float, rate: float, key: Key[Array, ""] | None, path: str = ""
) -> dict | tuple:
    if isinstance(params, tuple):
        layers = jax.tree.leaves(adapter)[0].shape[0]
        require(layers == len(params), f"adapter: layers of {path}", layers, f"{len(params)}, as the model has")
        pairs = enumerate(zip(params, P.unstack(adapter, layers), strict=True))
        return tuple(_changed(*pair, scale, rate, key, f"{path}/{i}") for i, pair in pairs)
    if adapter.keys() == {"a", "b"}:
        require("kernel" in params, f"adapter: {path}", sorted(params), "a kernel, to add to")
        key = None if key is None else jax.random.fold_in(key, zlib.crc32(path.encode()))
        kept = dropout(jnp.ones((*adapter["a"].shape[:-1], 1)), rate, key)
        change = scale * _product(adapter["a"] * kept, adapter["b"], params["kernel"].shape, path)
        return params | {"kernel": (params["kernel"] + change).astype(params["kernel"].dtype)}
    for name in adapter:
        require(name in params, f"adapter: {path or 'parameters'}", name, nearest(name, params))
    changed = {
        name: _changed(params[name], branch, scale, rate, key, f"{path}/{name}".removeprefix("/"))
        for name, branch in adapter.items()
    }
    return params | changed


def _product(a: Array, b: Array, kernel: tuple[int, ...], path: str) -> Array:
    """a b, for each layer of a stack, in the shape of the kernel."""
    stacked = a.ndim + b.ndim - 2 - len(kernel)  # 1 of a stack, both having its axis
    found, rank = a.shape[:-1] + b.shape[stacked + 1 :], a.shape[-1]
    require(found == kernel, f"adapter: kernel of {path}", found, f"{kernel}, as the model has")
    return (a.reshape(*kernel[:stacked], -1, rank) @ b.reshape(*kernel[:stacked], rank, -1)).reshape(kernel)
