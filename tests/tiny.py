"""What the tests of the model share: a config with no two axes alike, drawn parameters, a numerical gradient."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt import gpt
from jaxgpt.config import ModelConfig

TINY = ModelConfig(
    vocab_size=23, context_length=19, d_model=14, n_heads=6, n_kv_heads=2, head_dim=4, d_ff=17, n_layers=3
)
SCHEMES = {
    "learned": TINY,
    "sinusoidal": replace(TINY, position="sinusoidal"),
    "rotary": replace(TINY, position="rotary", rope_theta=50.0, norm="rms", gated=True, bias=False),
    "relative": replace(TINY, position="relative", relative_buckets=6, relative_max_distance=9, norm_position="post"),
}

apply = jax.jit(gpt.apply, static_argnums=2)
loss = jax.jit(gpt.loss, static_argnums=2)
loss_and_grads = jax.jit(jax.value_and_grad(gpt.loss, has_aux=True), static_argnums=2)


def draw(declarations, seed: int = 0):
    """Parameters without zeros or ones: biases, gains and all are drawn, so that each shows in the result."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: jnp.array(rng.normal(len(p.shape) == 1, 0.3, p.shape), jnp.float32), declarations)


def draw_tokens(cfg: ModelConfig, batch: int, time: int, seed: int = 1):
    return jnp.array(np.random.default_rng(seed).integers(0, cfg.vocab_size, (batch, time)))


def unchecked(base, **changes):
    """`replace` of a config, less the type checker of the tests, which would refuse a wrong value before it does."""
    config = object.__new__(type(base))
    for name, value in {**vars(base), **changes}.items():
        object.__setattr__(config, name, value)
    config.__post_init__()
    return config


def numerical_gradient(f, x: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """Central differences of a scalar float64 function, one element at a time."""
    gradient = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        ahead, behind = x.copy(), x.copy()
        ahead[index] += step
        behind[index] -= step
        gradient[index] = (f(ahead) - f(behind)) / (2 * step)
    return gradient
