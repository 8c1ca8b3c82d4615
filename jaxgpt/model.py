"""A model as its users hold it: what it is, its weights, and how it reads text."""

import functools
from dataclasses import dataclass
from functools import cached_property

import jax

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


def prepare(params: dict, cfg: ModelConfig) -> dict:
    """The same parameters in cfg.dtype, one tree a layer: a loop over tokens then copies no weights.

    What is so already is returned as it is.
    """
    ready = isinstance(params["layers"], tuple) and all(x.dtype == cfg.dtype for x in jax.tree.leaves(params))
    return params if ready else _prepare(params, cfg)


@functools.partial(jax.jit, static_argnames="cfg")
def _prepare(params: dict, cfg: ModelConfig) -> dict:
    return P.cast(params | {"layers": P.unstack(params["layers"], cfg.n_layers)}, cfg.dtype)
