"""From logits to a token: pure functions that hide what may not be chosen (as -inf), and the draw itself.

None sorts: on a CPU a sort of GPT-2's vocabulary takes as long as the model, the search for a threshold a tenth of it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt

Number = float | int | Float[Array, ""] | Int[Array, ""]


@dataclass(frozen=True)
class Sampler:
    """How tokens are chosen: the most likely one at temperature 0, else drawn from what the filters leave.

    They act in the order of Hugging Face: repetition_penalty, temperature, top_k, top_p, min_p.
    """

    temperature: float | int = 0.0
    """Divides the logits; 0: the most likely token, the lowest id among equals."""
    top_k: int | None = None
    """Draw from the k most likely tokens."""
    top_p: float | int | None = None
    """Draw from the fewest tokens whose probability reaches p."""
    min_p: float | int | None = None
    """Draw from the tokens at least p times as likely as the most likely one."""
    repetition_penalty: float | int | None = None
    """Divides the score of every token that the prompt or the text so far has; above 1 discourages."""

    def __post_init__(self):
        infinity = float("inf")
        for field, holds, expected in (
            ("temperature", lambda x: 0 <= x < infinity, "a number of at least 0"),
            ("top_k", lambda x: x >= 1 and x % 1 == 0, "a positive integer or None"),
            ("top_p", lambda x: 0 < x <= 1, "a number in (0, 1] or None"),
            ("min_p", lambda x: 0 <= x <= 1, "a number in [0, 1] or None"),
            ("repetition_penalty", lambda x: 0 < x < infinity, "a number above 0 or None"),
        ):
            value = getattr(self, field)
            if value is None and field != "temperature":
                continue
            if isinstance(value, bool) or not isinstance(value, Real) or not holds(value):
                raise ValueError(f"{field}: found {value!r}, expected {expected}")

    def settings(self) -> dict[str, float]:
        """The numbers that change what is chosen, by name: a compiled program depends on the names only."""
        idle = {"temperature": 0, "top_p": 1, "min_p": 0, "repetition_penalty": 1}
        filters = ("temperature", "top_k", "top_p", "min_p") if self.temperature > 0 else ()
        numbers = {name: getattr(self, name) for name in ("repetition_penalty", *filters)}
        active = {name: x for name, x in numbers.items() if x is not None and x != idle.get(name)}
        # More than int32 holds is more than any vocabulary.
        return {name: int(min(x, 2**31 - 1)) if name == "top_k" else float(x) for name, x in active.items()}


def choose(
    keys: Key[Array, "batch"],
    logits: Float[Array, "batch vocab"],
    settings: dict[str, Number],
    seen: Bool[Array, "batch vocab"] | None = None,
) -> Int[Array, "batch"]:
    """A token for each row, each row by its own key.

    settings: as of `Sampler.settings`. seen: the row's tokens so far, needed for a repetition penalty only.
    """
    if "repetition_penalty" in settings:
        logits = repetition_penalty(logits, seen, settings["repetition_penalty"])
    if "temperature" not in settings:
        return logits.argmax(-1)
    for name, function in (("temperature", temperature), ("top_k", top_k), ("top_p", top_p), ("min_p", min_p)):
        if name in settings:
            logits = function(logits, settings[name])
    return draw(keys, logits)


def draw(keys: Key[Array, "batch"], logits: Float[Array, "batch vocab"]) -> Int[Array, "batch"]:
    """A token from softmax(logits), by inverting the cumulative distribution; never one whose logit is -inf.

    One number a row: Gumbel noise for the whole vocabulary takes six times as long.
    """
    weights = jnp.exp(logits - logits.max(-1, keepdims=True))
    cumulative = weights.cumsum(-1)
    point = jax.vmap(jax.random.uniform)(keys) * cumulative[:, -1]
    # Rounded sums may rise where the weight is 0, or end below a point near 1.
    reached = (cumulative > point[:, None]) & (weights > 0)
    return jnp.where(reached.any(-1), reached.argmax(-1), weights.argmax(-1))


def temperature(logits: Float[Array, "batch vocab"], value: Number) -> Float[Array, "batch vocab"]:
    """logits / value, the largest made 0 first: no small temperature overflows. Source: Ackley et al. 1985."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted / jnp.maximum(value, jnp.finfo(logits.dtype).tiny)


def top_k(logits: Float[Array, "batch vocab"], k: Number) -> Float[Array, "batch vocab"]:
    """The k largest, and whatever equals the k-th. k beyond the vocabulary keeps all. Source: Fan et al. 2018, 5.4."""
    kept, _ = _fewest(logits, lambda kept: kept.sum(-1) >= k)
    return jnp.where(kept, logits, -jnp.inf)


def top_p(logits: Float[Array, "batch vocab"], p: Number) -> Float[Array, "batch vocab"]:
    """The fewest tokens whose probabilities sum to at least p; of equals, the lowest ids.

    Source: Holtzman et al. 2020, section 3.1.
    """
    p = jnp.maximum(p, jnp.finfo(jnp.float32).tiny)  # 0 would keep none
    weights = jax.nn.softmax(logits, axis=-1)
    kept, last = _fewest(logits, lambda kept: jnp.where(kept, weights, 0).sum(-1) >= p)
    above = jnp.where(kept & ~last, weights, 0).sum(-1, keepdims=True)
    before = above + (last.cumsum(-1) - 1) * weights
    return jnp.where(kept & (~last | (before < p)), logits, -jnp.inf)


def min_p(logits: Float[Array, "batch vocab"], p: Number) -> Float[Array, "batch vocab"]:
    """The tokens at least p times as likely as the most likely. Source: Nguyen et al. 2024, section 3."""
    return jnp.where(logits - logits.max(-1, keepdims=True) >= jnp.log(p), logits, -jnp.inf)


def repetition_penalty(
    logits: Float[Array, "batch vocab"], seen: Bool[Array, "batch vocab"], penalty: Number
) -> Float[Array, "batch vocab"]:
    """Scores of the tokens seen, divided by the penalty; negative ones multiplied, so that they sink too.

    Source: Keskar et al. 2019 (CTRL), section 4.1; the negative case as in Hugging Face.
    """
    return jnp.where(seen, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)


def _fewest(
    logits: Float[Array, "batch vocab"], enough: Callable[[Bool[Array, "batch vocab"]], Bool[Array, "batch"]]
) -> tuple[Bool[Array, "batch vocab"], Bool[Array, "batch vocab"]]:
    """The tokens down from the largest until they are `enough` (all, if they never are), and which equal the last.

    A float's bits, the sign turned round, are a whole number in the same order: the threshold is found bit by bit.
    """
    logits = jnp.where(logits == 0, 0, logits).astype(jnp.float32)  # -0.0 equals 0.0, its bits do not
    bits = jax.lax.bitcast_convert_type(logits, jnp.uint32)
    top = jnp.uint32(1 << 31)
    order = jnp.where(bits >= top, ~bits, bits | top)

    def set_bit(i: Array, threshold: UInt[Array, "batch"]) -> UInt[Array, "batch"]:
        raised = threshold | (top >> i.astype(jnp.uint32))
        return jnp.where(enough(order >= raised[:, None]), raised, threshold)

    lowest = jax.lax.fori_loop(0, 32, set_bit, jnp.zeros(logits.shape[0], jnp.uint32))[:, None]
    return order >= lowest, order == lowest
