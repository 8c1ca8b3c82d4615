"""Cross-entropy: of next tokens, of masked ones, of classes; and of which of two answers is preferred."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

Sums = dict[str, Float[Array, "..."]]


def cross_entropy(
    logits: Float[Array, "*shape classes"],
    targets: Int[Array, "*shape"],
    weights: Float[Array, "*shape"],
    smoothing: float,
) -> tuple[Float[Array, ""], Sums]:
    """The weighted mean loss in nats a target, and the sums that an evaluation adds up.

    smoothing: share of a target's probability that is spread evenly over all classes (Szegedy et al. 2016, section 7).
    Sums: "weight", of the targets; "nats", their cross-entropy without smoothing; "correct", where the target is the
    likeliest class. A batch of weight 0 has loss 0.
    """
    nats = optax.losses.softmax_cross_entropy_with_integer_labels(logits, targets)
    total = weights.sum()
    right = logits.argmax(-1) == targets
    sums = {"weight": total, "nats": (nats * weights).sum(), "correct": (right * weights).sum()}
    loss = sums["nats"]
    if smoothing > 0:
        # The mean over classes of log p is the mean logit less the normaliser, which the target's nats hold too.
        target = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
        uniform = nats + target - logits.mean(-1)
        loss = (((1 - smoothing) * nats + smoothing * uniform) * weights).sum()
    return loss / jnp.maximum(total, 1e-9), sums


def confusion(
    logits: Float[Array, "*texts classes"], labels: Int[Array, "*texts"], weights: Float[Array, "*texts"]
) -> Float[Array, "classes classes"]:
    """The weight of the texts of each class (rows) that the likeliest class (columns) of each is."""
    n = logits.shape[-1]
    real = jnp.eye(n)[labels] * weights[..., None]
    return jnp.einsum("...i,...j->ij", real, jnp.eye(n)[logits.argmax(-1)])


def dpo(
    chosen: Float[Array, "batch"],
    rejected: Float[Array, "batch"],
    reference: Float[Array, "batch"],
    beta: Float[Array, "batch"] | float,
) -> Float[Array, "batch"]:
    """The loss of preferring one answer to another, in nats: -log sigmoid(beta * (log-ratio - the reference's)).

    chosen, rejected: log p of either answer. reference: their difference by the model that is begun with.
    Source: Rafailov et al. 2023, "Direct Preference Optimization", equation 7.
    """
    return -jax.nn.log_sigmoid(beta * (chosen - rejected - reference))
