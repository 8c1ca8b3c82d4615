"""As finetune_instruct.py, by adapters beside the weights, which stay: python train.py configs/lora_instruct.py ..."""

from jaxgpt.config import ModelConfig
from jaxgpt.data import DataConfig
from jaxgpt.training.config import LoopConfig, OptimizerConfig, TrainConfig, TuneConfig

config = TrainConfig(
    objective="instruction",
    model=ModelConfig(),
    data=DataConfig(validation_fraction=0.05, test_fraction=0.1, style="alpaca", pack=False),
    optimizer=OptimizerConfig(
        learning_rate=2e-3, min_learning_rate=0.0, warmup_steps=10, beta2=0.999, weight_decay=0.0
    ),
    train=LoopConfig(steps=200, batch_size=8, eval_every=20, sample_tokens=60),
    tune=TuneConfig(lora_rank=8, lora_targets=("query", "key", "value", "output", "up", "gate", "down")),
)
