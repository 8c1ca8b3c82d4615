"""What a run minimises: a model's declarations and loss under one pair of names."""

from collections.abc import Callable
from dataclasses import dataclass

from jaxgpt import gpt


@dataclass(frozen=True)
class Objective:
    """declare(cfg) -> the tree of `Param`; loss(params, batch, cfg, *, key) -> (mean, {"weight": ...})."""

    declare: Callable
    loss: Callable


causal_lm = Objective(gpt.declare, gpt.loss)
