"""Text to batches: sources -> documents or pairs -> token shards -> windows, masked rows or buckets -> batches.

Needs numpy only.
"""

from jaxgpt.data.batches import EvalBatches, TrainBatches
from jaxgpt.data.buckets import TrainPairBatches
from jaxgpt.data.config import DataConfig, check
from jaxgpt.data.dataset import Dataset, prepare
from jaxgpt.data.masking import MaskedBatches, MaskedEvalBatches, Masking
from jaxgpt.data.pairs import PairDataset, Pairs, check_lengths, check_pairs, prepare_pairs

__all__ = [
    "DataConfig",
    "Dataset",
    "EvalBatches",
    "MaskedBatches",
    "MaskedEvalBatches",
    "Masking",
    "PairDataset",
    "Pairs",
    "TrainBatches",
    "TrainPairBatches",
    "check",
    "check_lengths",
    "check_pairs",
    "prepare",
    "prepare_pairs",
]
