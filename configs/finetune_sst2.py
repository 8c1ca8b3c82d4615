"""Whether a film is praised: python train.py configs/finetune_sst2.py --init_from MODEL --data.path train.tsv.gz

SST-2's 67,000 phrases of 10,000 sentences, once. Whole sentences are held out, and every phrase that is a part of one.
"""

from jaxgpt.config import ModelConfig
from jaxgpt.data import DataConfig
from jaxgpt.training.config import LoopConfig, OptimizerConfig, TrainConfig

config = TrainConfig(
    objective="classification",
    model=ModelConfig(dropout=0.1),
    data=DataConfig(text="sentence", whole=True, validation_fraction=0.1, pack_length=64, run_length=1, buckets=2),
    optimizer=OptimizerConfig(
        learning_rate=5e-5, min_learning_rate=0.0, warmup_steps=100, beta2=0.999, weight_decay=0.01
    ),
    train=LoopConfig(steps=1750, batch_size=7, eval_every=350),
)
