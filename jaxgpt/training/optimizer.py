"""The update: AdamW with decoupled decay where it belongs, clipping, and the learning rate over the run."""

import jax.numpy as jnp
import optax

from jaxgpt.training.config import OptimizerConfig


def make_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Learning rate of update i = 0, 1, ...: a linear warm-up, then what the config says.

    Update i of the warm-up has (i + 1) / (warmup_steps + 1) of the highest rate, so that none is wasted at 0.
    Sources: cosine, Loshchilov and Hutter 2017, equation 5; warm-up-stable-decay, Hu et al. 2024, section 4;
    inverse square root, Vaswani et al. 2017, equation 3, with warmup_steps + 1 for its warm-up.
    """
    peak, low, warmup = config.learning_rate, config.min_learning_rate, config.warmup_steps
    rest = max(steps - warmup, 1)
    match config.schedule:
        case "cosine":
            after = optax.cosine_decay_schedule(peak, rest, alpha=low / peak)
        case "wsd":
            decay = min(max(round(config.decay_fraction * steps), 1), rest)
            after = optax.linear_schedule(peak, low, decay, transition_begin=rest - decay)
        case "inverse_sqrt":
            after = lambda step: peak * jnp.sqrt((warmup + 1) / (warmup + 1 + step))  # noqa: E731
        case "constant":
            after = optax.constant_schedule(peak)
    warm = optax.linear_schedule(peak / (warmup + 1), peak, max(warmup, 1))
    return optax.join_schedules([warm, after], [warmup])


def make_optimizer(config: OptimizerConfig, steps: int, decay_mask) -> optax.GradientTransformation:
    """AdamW (Loshchilov and Hutter 2019, algorithm 2; decay scaled by the learning rate, as in torch.optim.AdamW)."""
    adamw = optax.adamw(
        make_schedule(config, steps),
        b1=config.beta1,
        b2=config.beta2,
        eps=config.epsilon,
        weight_decay=config.weight_decay,
        mask=decay_mask,
    )
    if config.clip is None:
        return adamw

    def clip(updates, params):
        # One factor, which fuses into the moments: optax.clip_by_global_norm writes the gradient once more.
        return optax.tree.scale(jnp.minimum(1, config.clip / optax.tree.norm(updates)), updates)

    return optax.chain(optax.stateless(clip), adamw)
