"""All that a run carries from step to step, and where it lives."""

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Key, PyTree

from jaxgpt import params as P
from jaxgpt.training.tuning import ALL, Tuning


@struct.dataclass
class TrainState:
    """step: updates made. params: those that are trained. frozen: the model's others. key: the run's own; each step
    folds its number into it.

    The leaves are arrays; in the trees that describe a state, their shapes or shardings.
    """

    step: PyTree
    params: PyTree
    optimizer: PyTree
    key: PyTree
    frozen: PyTree = struct.field(default_factory=dict)


def init_state(
    key: Key[Array, ""],
    declarations: P.Declarations,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    tuning: Tuning = ALL,
    params: PyTree[Array] | None = None,
) -> TrainState:
    """Step 0: every array drawn straight into its shards. params: the model's, to begin with (None: fresh ones)."""
    placed = state_shardings(declarations, optimizer, mesh, tuning)
    if params is None:
        params = P.init(key, declarations, mesh)
    begun = tuning.begun(params)
    fresh = {name: branch for name, branch in tuning.trained(declarations).items() if name not in begun}
    trained = begun | (P.init(key, fresh, mesh) if fresh else {})
    # Left to itself, jit would put Adam's moments on one device.
    moments = jax.jit(optimizer.init, out_shardings=placed.optimizer)(trained)
    state = TrainState(jnp.array(0), trained, moments, jax.random.fold_in(key, 1), tuning.frozen(params))
    return jax.device_put(state, placed)


def state_shardings(
    declarations: P.Declarations, optimizer: optax.GradientTransformation, mesh: Mesh, tuning: Tuning = ALL
) -> TrainState:
    """The sharding of each array of a TrainState: moments lie with their parameters, the rest on every device."""
    everywhere = NamedSharding(mesh, PartitionSpec())
    trained = tuning.trained(declarations)
    params = P.shardings(trained, mesh)
    shapes = jax.eval_shape(optimizer.init, P.abstract(trained))
    moments = optax.tree.map_params(
        optimizer, lambda _, s: s, shapes, params, transform_non_params=lambda _: everywhere
    )
    return TrainState(everywhere, params, moments, everywhere, P.shardings(tuning.frozen(declarations), mesh))


def abstract_state(
    declarations: P.Declarations, optimizer: optax.GradientTransformation, mesh: Mesh, tuning: Tuning = ALL
) -> TrainState:
    """Shapes and shardings of a TrainState: for restoring, and for compiling without devices."""

    def make():
        key = jax.random.key(0)
        params, frozen = (
            jax.tree.map(lambda p: p.init(key, p.shape), tree)
            for tree in (tuning.trained(declarations), tuning.frozen(declarations))
        )
        return TrainState(jnp.array(0), params, optimizer.init(params), key, frozen)

    shapes = jax.eval_shape(make)
    placed = state_shardings(declarations, optimizer, mesh, tuning)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, placed)
