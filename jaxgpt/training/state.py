"""All that a run carries from step to step, and where it lives."""

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Key, PyTree

from jaxgpt import params as P


@struct.dataclass
class TrainState:
    """step: updates made. key: the run's own; each step folds its number into it.

    The leaves are arrays; in the trees that describe a state, their shapes or shardings.
    """

    step: PyTree
    params: PyTree
    optimizer: PyTree
    key: PyTree


def init_state(key: Key[Array, ""], declarations, optimizer: optax.GradientTransformation, mesh) -> TrainState:
    """Step 0: every array drawn straight into its shards."""
    placed = state_shardings(declarations, optimizer, mesh)
    params = P.init(key, declarations, mesh)
    # Left to itself, jit would put Adam's moments on one device.
    moments = jax.jit(optimizer.init, out_shardings=placed.optimizer)(params)
    return jax.device_put(TrainState(jnp.array(0), params, moments, jax.random.fold_in(key, 1)), placed)


def state_shardings(declarations, optimizer: optax.GradientTransformation, mesh) -> TrainState:
    """The sharding of each array of a TrainState: moments lie with their parameters, the rest on every device."""
    everywhere = NamedSharding(mesh, PartitionSpec())
    params = P.shardings(declarations, mesh)
    shapes = jax.eval_shape(optimizer.init, P.abstract(declarations))
    moments = optax.tree.map_params(
        optimizer, lambda _, s: s, shapes, params, transform_non_params=lambda _: everywhere
    )
    return TrainState(everywhere, params, moments, everywhere)


def abstract_state(declarations, optimizer: optax.GradientTransformation, mesh) -> TrainState:
    """Shapes and shardings of a TrainState: for restoring, and for compiling without devices."""

    def make():
        key = jax.random.key(0)
        params = jax.tree.map(lambda p: p.init(key, p.shape), declarations)
        return TrainState(jnp.array(0), params, optimizer.init(params), key)

    shapes = jax.eval_shape(make)
    placed = state_shardings(declarations, optimizer, mesh)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, placed)
