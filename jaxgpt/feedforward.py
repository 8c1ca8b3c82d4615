"""The position-wise layers: linear, layer norm, RMS norm, dropout, dense and gated MLP."""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, UInt32

from jaxgpt.config import ModelConfig
from jaxgpt.params import bias, scale, weight
from jaxgpt.sharding import constrain, time_is_cut


def linear_params(inputs: dict[str, int], outputs: dict[str, int], std: float, has_bias: bool) -> dict:
    """A kernel from the named input axes to the named output axes, e.g. {"embed": D} -> {"heads": H, "head_dim": K}."""
    axes = inputs | outputs
    params = {"kernel": weight(tuple(axes.values()), tuple(axes), std)}
    if has_bias:
        params["bias"] = bias(tuple(outputs.values()), tuple(outputs))
    return params


def linear(params: dict, x: Float[Array, "batch time *inputs"]) -> Float[Array, "batch time *outputs"]:
    """x times the kernel over all of x's trailing axes, plus the bias if there is one.

    A kernel called "transposed", (outputs, inputs), is one of `model.prepare`.
    """
    # Flat rows: XLA's CPU product of (batch, time, d) takes 1.6x the time. Sequence parts can't be merged with rows.
    rows = x.reshape(*(x.shape[:2] if time_is_cut() else (x.shape[0] * x.shape[1],)), math.prod(x.shape[2:]))
    if "transposed" in params:
        kernel = params["transposed"]
        outputs = kernel.shape[: kernel.ndim - (x.ndim - 2)]
        y = jax.lax.dot_general(rows, kernel.reshape(-1, rows.shape[-1]), (((rows.ndim - 1,), (1,)), ((), ())))
    else:
        kernel = params["kernel"]
        outputs = kernel.shape[x.ndim - 2 :]
        y = rows @ kernel.reshape(rows.shape[-1], -1)
    y = y.reshape(*x.shape[:2], *outputs)
    return y + params["bias"] if "bias" in params else y


def residual_std(cfg: ModelConfig) -> float:
    """Of what is added to the residual stream: pre-norm sums grow with depth (Radford et al. 2019, section 2.3)."""
    return cfg.init_std / math.sqrt(2 * cfg.n_layers) if cfg.norm_position == "pre" else cfg.init_std


def norm_params(cfg: ModelConfig) -> dict:
    """A gain; for layer norm also a bias, where the config has biases."""
    params = {"scale": scale((cfg.d_model,), (None,))}
    if cfg.norm == "layer" and cfg.bias:
        params["bias"] = bias((cfg.d_model,), (None,))
    return params


def norm(params: dict, x: Float[Array, "*rows d_model"], cfg: ModelConfig) -> Float[Array, "*rows d_model"]:
    """Layer norm (Ba et al. 2016, section 3) or RMS norm (Zhang and Sennrich 2019, section 4), in float32."""
    y = _standardize(x.astype(jnp.float32), cfg.norm == "layer", cfg.norm_epsilon)
    y = y.astype(x.dtype) * params["scale"]
    return y + params["bias"] if "bias" in params else y


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _standardize(x: Float[Array, "*rows d_model"], centre: bool, epsilon: float) -> Float[Array, "*rows d_model"]:
    return _standardize_and_scale(x, centre, epsilon)[0]


def _standardize_and_scale(x: Array, centre: bool, epsilon: float) -> tuple[Array, Array]:
    x = x - x.mean(-1, keepdims=True) if centre else x
    scale = jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + epsilon)
    return x * scale, scale


@_standardize.defjvp
def _standardize_jvp(centre, epsilon, primals, tangents):
    # By hand: the backward pass keeps two arrays and reads each once. A JVP, not a VJP: forward mode works too.
    y, scale = _standardize_and_scale(*primals, centre, epsilon)
    (dx,) = tangents
    dy = dx - y * (dx * y).mean(-1, keepdims=True)
    return y, scale * (dy - dx.mean(-1, keepdims=True) if centre else dy)


def activation(x: Float[Array, "*shape"], cfg: ModelConfig) -> Float[Array, "*shape"]:
    """The MLP's nonlinearity. GELU: Hendrycks and Gimpel 2016, exact (by erf) or its tanh approximation."""
    match cfg.activation:
        case "gelu":
            return 0.5 * x * (1 + jax.lax.erf(x / math.sqrt(2)))  # jax.nn.gelu's erfc is slower on CPU
        case "gelu_tanh":
            return jax.nn.gelu(x, approximate=True)
        case "relu":
            return jax.nn.relu(x)
        case "silu":
            return jax.nn.silu(x)


def mlp_params(cfg: ModelConfig) -> dict:
    """Up to d_ff and down again; a gated MLP has a second projection up."""
    has_bias = cfg.bias if cfg.mlp_bias is None else cfg.mlp_bias
    up = {"embed": cfg.d_model}, {"mlp": cfg.ff_width}, cfg.init_std, has_bias
    params = {"up": linear_params(*up)}
    if cfg.gated:
        params["gate"] = linear_params(*up)
    params["down"] = linear_params({"mlp": cfg.ff_width}, {"embed": cfg.d_model}, residual_std(cfg), has_bias)
    return params


def mlp(params: dict, x: Float[Array, "batch time d_model"], cfg: ModelConfig) -> Float[Array, "batch time d_model"]:
    """down(act(up(x))) (Vaswani et al. 2017, section 3.3), or down(act(gate(x)) * up(x)) (Shazeer 2020, section 2)."""
    up = constrain(linear(params["up"], x), "batch", "time", "mlp")
    hidden = activation(linear(params["gate"], x), cfg) * up if cfg.gated else activation(up, cfg)
    return linear(params["down"], hidden)


def dropout(x: Float[Array, "*shape"], rate: float, key: Key[Array, ""] | None) -> Float[Array, "*shape"]:
    """Zero a share `rate` of x, to 1/65536, and scale the rest to keep its mean. Without a key, x as it is.

    Source: Srivastava et al. 2014, section 4, scaled in training.
    """
    if key is None or rate == 0:
        return x
    shown = max(1, round((1 - rate) * (1 << 16)))
    kept = (_random_bits(x.shape, key) >> 16).astype(jnp.int32) < shown
    return jnp.where(kept, x * ((1 << 16) / shown), 0).astype(x.dtype)


def _random_bits(shape: tuple[int, ...], key: Key[Array, ""]) -> UInt32[Array, "*shape"]:
    """Bits for masks: the number of each element, mixed with one word of the key and again with another.

    `jax.random.bits` takes five times as long on a CPU, a tenth of a training step, and long to compile.
    Source: the mixing is Wellons, hash-prospector, the 32-bit permutation of two rounds of the least bias.
    """
    words = jax.random.key_data(key)
    x = jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    for word in (words[0], words[-1]):
        x = x ^ word
        x = (x ^ (x >> 16)) * jnp.uint32(0x21F0AAAD)
        x = (x ^ (x >> 15)) * jnp.uint32(0xD35A2D97)
        x = x ^ (x >> 15)
    return x
