"""A model as its users hold it: what it is, its weights, and how it reads text."""

import functools
from dataclasses import dataclass, replace
from functools import cached_property

import jax
import jax.numpy as jnp

from jaxgpt import bert, gpt, seq2seq
from jaxgpt import params as P
from jaxgpt.beam import EarlyStopping
from jaxgpt.checks import check_types
from jaxgpt.config import ModelConfig
from jaxgpt.tokenizers import Tokenizer


@dataclass(frozen=True)
class GenerationDefaults:
    """How a checkpoint wants its text made, where the caller says nothing else."""

    end_tokens: tuple[int, ...] = ()
    """Ids that end a text; none given: the tokenizer's end_of_text."""
    start_token: int | None = None
    """What a target of an encoder-decoder begins with (None: the first end token)."""
    banned_tokens: tuple[int, ...] = ()
    """Ids that are never chosen."""
    max_new_tokens: int | None = None
    """Most tokens of a text, its prompt not counted (None: the caller says)."""
    max_length: int | None = None
    """Most tokens of a text, its prompt (or start token) counted, where max_new_tokens is None."""
    do_sample: bool | None = None
    """Draw tokens, or take the likeliest (None: the caller says)."""
    temperature: float | None = None
    """Divides the logits where tokens are drawn; as the next three, a number of `Sampler`."""
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    """Of `Sampler`; acts whether tokens are drawn or not."""
    beam: int = 1
    """Hypotheses that are kept."""
    length_penalty: float = 1.0
    """The power of a hypothesis' length that its log-probability is divided by."""
    early_stopping: EarlyStopping = False
    """As of `beam.advance`."""

    def __post_init__(self):
        check_types(self)


@dataclass(frozen=True)
class Settings:
    """What a checkpoint's folder says of its use. No function of a model depends on it."""

    family: str | None = None
    """The name of the family in `pretrained` whose layout it was read from."""
    generation: GenerationDefaults = GenerationDefaults()
    """How text is made."""
    labels: tuple[str, ...] = ()
    """The names of the classes."""
    pooling: bert.Pooling | None = None
    """How the states of a text become its vector."""
    normalize: bool = False
    """Whether that vector is divided by its length."""
    max_tokens: int | None = None
    """Where a text is cut that becomes a vector, if not at context_length."""
    prefixes: tuple[tuple[str, str], ...] = ()
    """Pairs of a task and what a text for it begins with ("summarization", "summarize: ")."""

    def __post_init__(self):
        check_types(self)


@dataclass(frozen=True, eq=False)
class Model:
    """A config, the parameters it declares, a tokenizer, and what is known of their use."""

    config: ModelConfig
    params: dict
    tokenizer: Tokenizer
    settings: Settings = Settings()

    @cached_property
    def generation(self) -> GenerationDefaults:
        """How its text is made: as the settings say, ended by the tokenizer's end_of_text where they say nothing."""
        found = self.settings.generation
        if found.end_tokens or self.tokenizer.end_of_text is None:
            return found
        return replace(found, end_tokens=(self.tokenizer.end_of_text,))

    @cached_property
    def inference_config(self) -> ModelConfig:
        """The config to compute with. On a CPU in float32: there XLA widens what is less before every product, again
        in every dispatch, which takes longer than many tokens do."""
        return replace(self.config, dtype="float32") if jax.default_backend() == "cpu" else self.config

    @cached_property
    def inference_params(self) -> dict:
        """Parameters `prepare`d for it, made on first use and kept as long as the model: a second copy of the layers,
        unless they are so already."""
        return prepare(self.params, self.inference_config.dtype)


def declarations(cfg: ModelConfig) -> dict:
    """The parameters that a model of this architecture has."""
    return {"decoder": gpt, "encoder": bert, "encoder-decoder": seq2seq}[cfg.architecture].declare(cfg)


def by_layer(params: dict, dtype: str) -> dict:
    """The same parameters in this dtype, one tree a layer. What is so already is returned as it is."""
    stacks = [params, params.get("encoder", {}), params.get("decoder", {})]
    unstacked = not any(isinstance(stack.get("layers"), dict) for stack in stacks)
    ready = unstacked and all(x.dtype == dtype for x in jax.tree.leaves(params))
    return params if ready else _by_layer(params, dtype)


def prepare(params: dict, dtype: str) -> dict:
    """The same parameters to compute with but not to learn: in this dtype, one tree a layer, so that a loop over tokens
    copies no weights; on a CPU each kernel transposed, whose products there take 0.5 to 0.85 of the time.

    What is so already is returned as it is.
    """
    if jax.default_backend() != "cpu":
        return by_layer(params, dtype)
    ready = not any(path[-1].key == "kernel" for path, _ in jax.tree_util.tree_leaves_with_path(params))
    return by_layer(params, dtype) if ready else _transposed(by_layer(params, dtype))


@jax.jit
def _transposed(params: dict) -> dict:
    def turn(tree, name=""):
        if isinstance(tree, tuple):
            return tuple(map(turn, tree))
        if not isinstance(tree, dict):
            return tree
        found = {name: turn(branch, name) for name, branch in tree.items()}
        if "kernel" in found:
            kernel = found.pop("kernel")
            inputs = kernel.ndim - 1 if name == "output" else 1  # the heads, of attention's output
            found["transposed"] = jnp.moveaxis(kernel, range(inputs), range(-inputs, 0))
        return found

    return turn(params)


@functools.partial(jax.jit, static_argnames="dtype")
def _by_layer(params: dict, dtype: str) -> dict:
    def unstack(tree, name=""):
        if name == "layers":
            return P.unstack(tree, len(jax.tree.leaves(tree)[0]))
        return {name: unstack(branch, name) for name, branch in tree.items()} if isinstance(tree, dict) else tree

    return P.cast(unstack(params), dtype)
