"""An assistant from a base model: python train.py configs/finetune_instruct.py --init_from MODEL --data.path FILE.json

Alpaca-style records ({"instruction", "input", "output"}); 5 % are validated on, 10 % kept for a test.
"""

from jaxgpt.config import ModelConfig
from jaxgpt.data import DataConfig
from jaxgpt.training.config import LoopConfig, OptimizerConfig, TrainConfig

config = TrainConfig(
    objective="instruction",
    model=ModelConfig(),
    data=DataConfig(validation_fraction=0.05, test_fraction=0.1, style="alpaca", pack=False),
    optimizer=OptimizerConfig(learning_rate=5e-4, min_learning_rate=0.0, warmup_steps=10, beta2=0.999),
    train=LoopConfig(steps=200, batch_size=8, eval_every=20, sample_tokens=60),
)
