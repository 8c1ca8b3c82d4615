"""Text to batches: sources -> documents or pairs -> token shards -> windows, masked rows or buckets -> batches.

Needs numpy only.
"""

from jaxgpt.data.batches import EvalBatches, TrainBatches
from jaxgpt.data.buckets import BucketBatches
from jaxgpt.data.config import DataConfig, check
from jaxgpt.data.dataset import Dataset, prepare
from jaxgpt.data.labelled import Labelled, LabelledTexts, check_labelled, read_labelled
from jaxgpt.data.masking import MaskedBatches, MaskedEvalBatches, Masking
from jaxgpt.data.pairs import PairDataset, Pairs, check_lengths, check_pairs, prepare_pairs

__all__ = [
    "BucketBatches",
    "DataConfig",
    "Dataset",
    "EvalBatches",
    "Labelled",
    "LabelledTexts",
    "MaskedBatches",
    "MaskedEvalBatches",
    "Masking",
    "PairDataset",
    "Pairs",
    "TrainBatches",
    "check",
    "check_labelled",
    "check_lengths",
    "check_pairs",
    "prepare",
    "prepare_pairs",
    "read_labelled",
]
