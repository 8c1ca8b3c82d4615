"""Spam or not, from any model: python train.py configs/finetune_spam.py --init_from MODEL --data.path train.tsv

One pass over 3,600 short messages (the SMS Spam Collection), which takes 2 CPU cores a few minutes.
"""

from jaxgpt.config import ModelConfig
from jaxgpt.data import DataConfig
from jaxgpt.training.config import LoopConfig, OptimizerConfig, TrainConfig

config = TrainConfig(
    objective="classification",
    model=ModelConfig(dropout=0.1),
    data=DataConfig(validation_fraction=0.2, pack_length=64, run_length=1, buckets=3),
    optimizer=OptimizerConfig(
        learning_rate=1e-4, min_learning_rate=0.0, warmup_steps=20, beta2=0.999, weight_decay=0.01
    ),
    train=LoopConfig(steps=107, batch_size=13, eval_every=107),
)
