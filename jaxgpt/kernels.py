"""Which implementation computes attention, and the two fused ones: cuDNN flash on a GPU, Pallas splash on a TPU."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgpt.sharding import ACTIVATIONS, cut_axes, spec, time_is_cut


def choose(wanted: str, query, key, mask, *, plain: bool) -> str:
    """The implementation: "xla", "blocks" (xla, skipping what a causal mask hides), "cudnn" or "splash".

    wanted: the config's `attention`; "auto" takes the device's fused kernel where dtype, shape and mask allow it.
    plain: no bias on the scores and no dropout of weights.
    Raises ValueError where a kernel is demanded that can't compute this attention.
    """
    ordered = mask.causal and mask.query_positions is None
    if wanted in ("cudnn", "splash"):
        reason = _obstacle(wanted, query, mask, plain)
        if reason:
            raise ValueError(f"model.attention: found {wanted!r}, expected 'xla' or 'auto', as {reason}")
        return wanted
    if wanted == "auto":
        kernel = {"gpu": "cudnn", "tpu": "splash"}.get(_platform())
        if kernel and not _obstacle(kernel, query, mask, plain):
            return kernel
    return "blocks" if ordered and plain and mask.window is None and not time_is_cut() else "xla"


def _platform() -> str:
    """Where the program is being compiled for: the mesh's devices (perhaps absent ones), else the default device."""
    mesh = jax.sharding.get_abstract_mesh()
    return jax.default_backend() if mesh.empty else mesh.abstract_device.platform


def _obstacle(kernel: str, query, mask, plain: bool) -> str | None:
    """Why this kernel can't compute this attention; None where it can."""
    time, head_dim = query.shape[1], query.shape[3]
    if not plain:
        return "scores are biased or weights dropped"
    if mask.tree is not None or (mask.query_positions is not None and mask.query_segments is None):
        return "the tokens of a row are no sequence"
    if mask.query_segments is not mask.key_segments:
        return "queries and keys are not the same tokens"
    if time_is_cut():
        return "the mesh cuts sequences"
    if kernel == "cudnn":
        if mask.query_segments is not None:
            return "rows are padded or packed"
        if mask.window is not None and not mask.causal:
            return "a window reaches both ways"
        if query.dtype not in (jnp.bfloat16, jnp.float16):
            return f"dtype is {query.dtype}, not bfloat16 or float16"
        if head_dim % 8 or head_dim > 128:
            return f"head_dim={head_dim} is not a multiple of 8 up to 128"
        if time % 2:  # JAX masks the last slot by a bias then, whose gradient cuDNN hasn't at odd lengths
            return f"the length {time} is odd"
    if kernel == "splash" and mask.window is not None and mask.gaps:
        return "padding may stand inside the window, which this kernel counts in slots"
    if kernel == "splash" and time % 128:
        return f"the length {time} is not a multiple of 128"
    return None


def cudnn(
    query: Float[Array, "batch time heads head_dim"],
    key: Float[Array, "batch time kv_heads head_dim"],
    value: Float[Array, "batch time kv_heads head_dim"],
    mask,
) -> Float[Array, "batch time heads head_dim"]:
    """Self-attention by cuDNN's flash kernel. Source: Dao 2023, "FlashAttention-2", through `jax.nn`."""
    window = None if mask.window is None else (mask.window - 1, 0)
    return jax.nn.dot_product_attention(
        query, key, value, is_causal=mask.causal, local_window_size=window, implementation="cudnn"
    )


def splash(
    query: Float[Array, "batch time heads head_dim"],
    key: Float[Array, "batch time kv_heads head_dim"],
    value: Float[Array, "batch time kv_heads head_dim"],
    mask,
    *,
    interpret: bool = False,
) -> Float[Array, "batch time heads head_dim"]:
    """Self-attention by JAX's Pallas kernel, each device its own rows and heads.

    A padded query attends to padding: its result is finite and means nothing. `interpret` runs on any device, slowly.
    """
    from jax.experimental.pallas.ops.tpu import splash_attention as sa

    def one_device(query, key, value, segments):
        time, heads = query.shape[1:3]
        shape = (time, time)
        if mask.window is not None:
            seen = sa.LocalMask(shape, (mask.window - 1, 0 if mask.causal else mask.window - 1), 0)
        else:
            seen = sa.CausalMask(shape) if mask.causal else sa.FullMask(shape)
        size = 512 if time % 512 == 0 else 128
        blocks = sa.BlockSizes(*(size,) * 8)
        kernel = sa.make_splash_mha(
            sa.MultiHeadMask([seen] * heads), block_sizes=blocks, head_shards=1, q_seq_shards=1, interpret=interpret
        )
        ids = None if segments is None else sa.SegmentIds(segments, segments)
        scaled = query * query.shape[-1] ** -0.5
        out = jax.vmap(kernel)(*(x.swapaxes(1, 2) for x in (scaled, key, value)), ids)
        return out.swapaxes(1, 2).astype(query.dtype)

    mesh = jax.sharding.get_abstract_mesh()
    if not cut_axes(mesh):
        return one_device(query, key, value, mask.query_segments)
    place = functools.partial(spec, mesh=mesh, rules=ACTIVATIONS)
    queries = place(("batch", None, "heads", None), query.shape)
    if queries[2] != place(("batch", None, "kv_heads", None), key.shape)[2]:
        # Too few kv heads to cut: a device would pair its query heads with the wrong ones of all of them.
        key, value = (jnp.repeat(x, query.shape[2] // x.shape[2], axis=2) for x in (key, value))
    keys = place(("batch", None, "kv_heads", None), key.shape)
    segments = None if mask.query_segments is None else place(("batch", None), mask.query_segments.shape)
    one_device = jax.shard_map(one_device, in_specs=(queries, keys, keys, segments), out_specs=queries, check_vma=False)
    return one_device(query, key, value, mask.query_segments)
