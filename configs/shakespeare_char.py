"""Characters of Shakespeare: nanoGPT's experiment for a laptop.

    python train.py configs/shakespeare_char.py --data.path input.txt

0.8M parameters, 2,000 steps of 12 x 64 characters: 45 s on 2 CPU cores, validation loss 1.746 nats. One number is not
nanoGPT's: init_std is near 1/sqrt(d_model); with 0.02 the loss is 1.91.
"""

from jaxgpt.config import ModelConfig
from jaxgpt.data import DataConfig
from jaxgpt.training.config import LoopConfig, OptimizerConfig, TrainConfig

config = TrainConfig(
    model=ModelConfig(
        vocab_size=65,
        context_length=64,
        d_model=128,
        n_layers=4,
        n_heads=4,
        bias=False,
        activation="gelu",
        init_std=0.08,
    ),
    data=DataConfig(path="input.txt", tokenizer="char"),
    optimizer=OptimizerConfig(learning_rate=1e-3, min_learning_rate=1e-4, warmup_steps=100, beta2=0.99),
    train=LoopConfig(steps=2000, batch_size=12, eval_every=250, sample_tokens=500),
)
