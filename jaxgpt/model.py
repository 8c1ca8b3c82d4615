"""A model as its users hold it: what it is, its weights, and how it reads text."""

import functools
from dataclasses import dataclass
from functools import cached_property

import jax

from jaxgpt import bert, gpt, seq2seq
from jaxgpt import params as P
from jaxgpt.config import ModelConfig
from jaxgpt.tokenizers import Tokenizer


@dataclass(frozen=True, eq=False)
class Model:
    """A config, the parameters it declares, and a tokenizer."""

    config: ModelConfig
    params: dict
    tokenizer: Tokenizer

    @cached_property
    def decode_params(self) -> dict:
        """`prepare`d parameters, made on first use and kept as long as the model: a second copy of the layers."""
        return prepare(self.params, self.config)


def declarations(cfg: ModelConfig) -> dict:
    """The parameters that a model of this architecture has."""
    return {"decoder": gpt, "encoder": bert, "encoder-decoder": seq2seq}[cfg.architecture].declare(cfg)


def prepare(params: dict, cfg: ModelConfig) -> dict:
    """The same parameters in cfg.dtype, one tree a layer: a loop over tokens then copies no weights.

    What is so already is returned as it is.
    """
    stacks = [params, params.get("encoder", {}), params.get("decoder", {})]
    unstacked = not any(isinstance(stack.get("layers"), dict) for stack in stacks)
    ready = unstacked and all(x.dtype == cfg.dtype for x in jax.tree.leaves(params))
    return params if ready else _prepare(params, cfg)


@functools.partial(jax.jit, static_argnames="cfg")
def _prepare(params: dict, cfg: ModelConfig) -> dict:
    def unstack(tree, name=""):
        if name == "layers":
            return P.unstack(tree, len(jax.tree.leaves(tree)[0]))
        return {name: unstack(branch, name) for name, branch in tree.items()} if isinstance(tree, dict) else tree

    return P.cast(unstack(params), cfg.dtype)
