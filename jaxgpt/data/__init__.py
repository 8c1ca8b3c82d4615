"""Text to batches: sources -> documents -> token shards -> windows -> batches. Needs numpy only."""

from jaxgpt.data.batches import EvalBatches, TrainBatches
from jaxgpt.data.config import DataConfig, check
from jaxgpt.data.dataset import Dataset, prepare

__all__ = ["DataConfig", "Dataset", "EvalBatches", "TrainBatches", "check", "prepare"]
