"""GPT-2 124M from scratch, on accelerators: bfloat16, FSDP, GPT-2's own tokenizer.

    python train.py configs/gpt2_124m.py --data.path FOLDER --mesh.data 2 --mesh.fsdp 4

Half a million tokens an update. Set the mesh to your devices; `--train.accumulation` fits the batch to their memory.
"""

from jaxgpt import config as presets
from jaxgpt.data import DataConfig
from jaxgpt.training.config import LoopConfig, OptimizerConfig, TrainConfig

config = TrainConfig(
    model=presets.replace(
        presets.gpt2("124M"), vocab_size=50304, bias=False, dtype="bfloat16", scan_layers=True, remat="dots"
    ),
    data=DataConfig(path="python", tokenizer="tiktoken:gpt2", sampling="epochs"),
    optimizer=OptimizerConfig(learning_rate=6e-4, min_learning_rate=6e-5, warmup_steps=700, beta2=0.95),
    train=LoopConfig(steps=19000, batch_size=512, accumulation=8, eval_every=500, log_every=10, sample_every=1000),
)
