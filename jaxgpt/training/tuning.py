"""Which parameters of a model a run trains: all, those of the last blocks, or a low-rank adapter beside them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PyTree

from jaxgpt import params as P
from jaxgpt.checks import require
from jaxgpt.finetuning import lora
from jaxgpt.finetuning.peft import HEADS
from jaxgpt.training.config import TrainConfig

ADAPTER = "adapter"


@dataclass(frozen=True)
class Tuning:
    """A split of a model's parameters into those that are trained and those that stay, and the model from both."""

    trained: Callable[[P.Declarations], P.Declarations]
    """What is trained, from the model's declarations."""
    begun: Callable[[PyTree[Array]], PyTree[Array]]
    """Of what is trained, that which begins as a parameter of the model."""
    frozen: Callable[[PyTree], PyTree]
    """Of the model's declarations or parameters, those that stay."""
    whole: Callable[..., PyTree[Array]]
    """whole(trained, frozen, key) -> the model's parameters. key: drops what the split itself drops; or None."""
    dropout: float = 0.0
    """Probability of what it drops."""

    @cached_property
    def model(self) -> Callable[[Any], PyTree[Array]]:
        """The function from a `TrainState` to the parameters of its model."""
        whole = jax.jit(self.whole)
        return lambda state: whole(state.params, state.frozen) if state.frozen else state.params

    def count(self, declarations: P.Declarations) -> str:
        """How many parameters there are, and how many are trained, for the reader."""
        trained, frozen = P.count(self.trained(declarations)), P.count(self.frozen(declarations))
        share = f" beside {frozen:,} that stay ({trained / (trained + frozen):.2%} trained)" if frozen else ""
        return f"{trained:,} parameters{share}"


def find(config: TrainConfig) -> Tuning:
    """What the config says. Raises ValueError for what can't be had of its model."""
    tune, n = config.tune, config.model.n_layers
    if tune.last_blocks is not None:
        paired = config.model.architecture == "encoder-decoder"
        require(not paired, "tune.last_blocks", tune.last_blocks, "None, for an encoder-decoder")
        require(tune.last_blocks <= n, "tune.last_blocks", tune.last_blocks, f"at most model.n_layers={n}")
        return _last_blocks(n - tune.last_blocks)
    if tune.lora_rank > 0:
        # The base never classified a text: what does is trained whole.
        heads = HEADS if config.objective == "classification" else ()
        return _adapter(adapter_settings(config), heads)
    return ALL


def adapter_settings(config: TrainConfig) -> lora.LoRAConfig:
    """Of the adapter that the config says to train."""
    tune = config.tune
    return lora.LoRAConfig(tune.lora_rank, tune.lora_alpha, tune.lora_dropout, tune.lora_targets)


ALL = Tuning(lambda tree: tree, lambda tree: tree, lambda tree: {}, lambda trained, frozen, key=None: trained)


def _last_blocks(first: int) -> Tuning:
    """first: the block from which on they are trained, with what reads their states."""

    def cut(tree: PyTree, start: int | None, end: int | None) -> PyTree:
        def part(x: Any) -> Any:
            if not isinstance(x, P.Param):
                return x[start:end]
            return P.Param((len(range(x.shape[0])[start:end]), *x.shape[1:]), x.axes, x.init, x.decay)

        return jax.tree.map(part, tree)

    def trained(tree: PyTree) -> PyTree:
        return {n: cut(x, first, None) if n == "layers" else x for n, x in tree.items() if n != "embedding"}

    def frozen(tree: PyTree) -> PyTree:
        return {"embedding": tree["embedding"], "layers": cut(tree["layers"], 0, first)}

    def whole(trained: PyTree[Array], frozen: PyTree[Array], key: Key[Array, ""] | None = None) -> PyTree[Array]:
        layers = jax.tree.map(lambda *parts: jnp.concatenate(parts), frozen["layers"], trained["layers"])
        return trained | {"embedding": frozen["embedding"], "layers": layers}

    return Tuning(trained, trained, frozen, whole)


def _adapter(settings: lora.LoRAConfig, heads: tuple[str, ...]) -> Tuning:
    def split(tree: PyTree, head: bool) -> PyTree:
        return {name: branch for name, branch in tree.items() if (name in heads) == head}

    def trained(tree: P.Declarations) -> P.Declarations:
        return {ADAPTER: lora.declare(split(tree, False), settings)} | split(tree, True)

    def whole(trained: PyTree[Array], frozen: PyTree[Array], key: Key[Array, ""] | None = None) -> PyTree[Array]:
        own = {name: branch for name, branch in trained.items() if name != ADAPTER}
        return lora.adapt(frozen, trained[ADAPTER], settings, key=key) | own

    return Tuning(trained, partial(split, head=True), partial(split, head=False), whole, settings.dropout)
