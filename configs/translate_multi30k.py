"""German to English on Multi30k: the Transformer of 2017, small, for a laptop.

    python train.py configs/translate_multi30k.py --data.path FOLDER

FOLDER holds train.de, train.en, val.de and val.en (or .gz): 29,000 and 1,014 descriptions of pictures. 5.5M parameters,
12 epochs: 27 minutes on 2 CPU cores (shared with other work for half of that), 40.7 BLEU on the validation part with a
beam of 4. Needs the `translation` extra.
"""

from jaxgpt.config import ModelConfig
from jaxgpt.data import DataConfig
from jaxgpt.training.config import LoopConfig, OptimizerConfig, TrainConfig

config = TrainConfig(
    objective="seq2seq",
    model=ModelConfig(
        architecture="encoder-decoder",
        vocab_size=6000,
        context_length=96,
        d_model=256,
        n_layers=3,
        n_heads=4,
        d_ff=512,
        position="sinusoidal",
        embedding_scale=True,
        activation="relu",
        dropout=0.2,
        label_smoothing=0.1,
        init_std=0.0625,
    ),
    data=DataConfig(path="multi30k", source="de", target="en", tokenizer="bpe", vocab_size=6000),
    optimizer=OptimizerConfig(
        learning_rate=2e-3, min_learning_rate=2e-5, warmup_steps=300, beta2=0.98, epsilon=1e-9, weight_decay=0.05
    ),
    train=LoopConfig(steps=2800, batch_size=128, eval_every=400),
)
