"""BERT base from scratch, on accelerators: bfloat16, FSDP, BERT's own vocabulary.

    python train.py configs/bert_base.py --data.path FOLDER --data.tokenizer vocab:vocab.txt --mesh.data 2 --mesh.fsdp 4

131,072 tokens an update, as in Devlin et al. 2019, appendix A.2, but for next-sentence prediction, which it leaves out.
Set the mesh to your devices; `--train.accumulation` fits the batch to their memory.
"""

from jaxgpt import config as presets
from jaxgpt.data import DataConfig
from jaxgpt.training.config import LoopConfig, OptimizerConfig, TrainConfig

config = TrainConfig(
    objective="masked_lm",
    model=presets.replace(presets.bert("base"), head="lm", dtype="bfloat16", scan_layers=True, remat="dots"),
    data=DataConfig(path="python", tokenizer="wordpiece", vocab_size=30522, sampling="epochs", whole_word=True),
    optimizer=OptimizerConfig(
        learning_rate=1e-4, min_learning_rate=1e-6, warmup_steps=10_000, beta2=0.999, epsilon=1e-6, weight_decay=0.01
    ),
    train=LoopConfig(steps=100_000, batch_size=256, accumulation=4, eval_every=1000, save_every=5000),
)
