"""A small GPT on Python's own standard library: what `python train.py` runs.

    python train.py

Byte-level BPE of 1,024 tokens, trained on the spot, on about 12 MB of source code.
"""

from jaxgpt.config import ModelConfig
from jaxgpt.data import DataConfig
from jaxgpt.training.config import LoopConfig, OptimizerConfig, TrainConfig

config = TrainConfig(
    model=ModelConfig(vocab_size=1024, context_length=128, d_model=192, n_layers=4, n_heads=6, bias=False),
    data=DataConfig(path="python", tokenizer="bpe", vocab_size=1024),
    optimizer=OptimizerConfig(learning_rate=2e-3, min_learning_rate=2e-4, warmup_steps=50, beta2=0.99),
    train=LoopConfig(
        steps=500, batch_size=16, eval_every=100, final_eval_batches=40, sample_every=250, sample_tokens=160
    ),
)
