"""A run as data: `TrainConfig`, read from a config file and the command line."""

import dataclasses
import json
import re
import runpy
import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import tyro

from jaxgpt.checks import check_names, check_types, require
from jaxgpt.config import ModelConfig
from jaxgpt.data import DataConfig
from jaxgpt.sharding import MeshConfig


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and its learning rate over the run."""

    learning_rate: float = 1e-3
    """The highest, reached after the warm-up."""
    min_learning_rate: float = 1e-4
    """The lowest, at the end. Not used with the schedules inverse_sqrt and constant."""
    warmup_steps: int = 100
    """Steps of linear warm-up, none of them at 0."""
    schedule: Literal["cosine", "wsd", "inverse_sqrt", "constant"] = "cosine"
    """After the warm-up: half a cosine; or stable, then a linear decay (wsd); or falling with the root of the step; or
    constant."""
    decay_fraction: float = 0.2
    """Share of the run that the linear decay of wsd takes."""
    beta1: float = 0.9
    """Decay of the first moment."""
    beta2: float = 0.99
    """Decay of the second moment."""
    epsilon: float = 1e-8
    """Added to the root of the second moment."""
    weight_decay: float = 0.1
    """Decoupled decay of matrices and embeddings; biases and norms have none."""
    clip: float | None = 1.0
    """Largest global norm of the gradient (None: any)."""

    def __post_init__(self):
        check_types(self, "optimizer")
        for name in ("learning_rate", "epsilon"):
            require(getattr(self, name) > 0, f"optimizer.{name}", getattr(self, name), "a number above 0")
        for name in ("min_learning_rate", "warmup_steps", "weight_decay"):
            require(getattr(self, name) >= 0, f"optimizer.{name}", getattr(self, name), "a number of at least 0")
        for name in ("beta1", "beta2"):
            require(0 <= getattr(self, name) < 1, f"optimizer.{name}", getattr(self, name), "a number in [0, 1)")
        falls = self.schedule in ("inverse_sqrt", "constant") or self.min_learning_rate <= self.learning_rate
        expected = f"at most optimizer.learning_rate={self.learning_rate}"
        require(falls, "optimizer.min_learning_rate", self.min_learning_rate, expected)
        require(0 < self.decay_fraction <= 1, "optimizer.decay_fraction", self.decay_fraction, "a number in (0, 1]")
        require(self.clip is None or self.clip > 0, "optimizer.clip", self.clip, "a number above 0, or None")


@dataclass(frozen=True)
class LoopConfig:
    """How long to train, and what happens on the way."""

    steps: int = 1000
    """Updates of the parameters."""
    batch_size: int = 16
    """Sequences an update sees."""
    accumulation: int = 1
    """Parts that a batch is computed in, one after the other; the update is the whole batch's."""
    eval_every: int = 100
    """Steps between evaluations."""
    eval_batches: int = 20
    """Batches of an evaluation on the way; of pairs and labelled texts, all are evaluated."""
    final_eval_batches: int = 200
    """Batches of the evaluation at the end; of pairs and labelled texts, all are evaluated."""
    save_every: int | None = None
    """Steps between checkpoints (None: eval_every)."""
    keep: int = 2
    """Newest checkpoints kept, beside the best."""
    log_every: int = 10
    """Steps between rows of metrics.jsonl."""
    sample_every: int | None = None
    """Steps between printed samples, besides the one at the end (None: no others)."""
    sample_prompt: str = ""
    """What samples begin with (empty: end-of-text, or a line break where there is none)."""
    sample_tokens: int = 200
    """Length of a sample."""
    steps_per_dispatch: int = 10
    """Most updates that one call of the compiled program makes."""
    seed: int = 0
    """Of parameters, batches, dropout and samples, and of which texts with a label are held out."""
    new_head: bool = False
    """Labelled texts: begin with a fresh head though init_from has one; its classes may then be others."""
    tensorboard: bool = False
    """Also write TensorBoard event files to the run directory."""

    def __post_init__(self):
        check_types(self, "train")
        positive = ("steps", "batch_size", "accumulation", "eval_every", "eval_batches", "final_eval_batches")
        for name in (*positive, "keep", "log_every", "sample_tokens", "steps_per_dispatch"):
            require(getattr(self, name) >= 1, f"train.{name}", getattr(self, name), "a positive integer")
        for name in ("save_every", "sample_every"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"train.{name}", value, "a positive integer, or None")
        require(0 <= self.seed < 2**32, "train.seed", self.seed, "an integer from 0, below 2**32")
        expected = f"a divisor of train.batch_size={self.batch_size}"
        require(self.batch_size % self.accumulation == 0, "train.accumulation", self.accumulation, expected)


@dataclass(frozen=True)
class TuneConfig:
    """Which parameters learn."""

    last_blocks: int | None = None
    """Train only so many blocks, the last ones, and what reads their states (None: all; 0: the head alone)."""
    lora_rank: int = 0
    """Above 0: train an adapter of this rank beside each of lora_targets (Hu et al. 2021), and a head that classifies;
    nothing else."""
    lora_alpha: float = 16.0
    """What an adapter adds is multiplied by lora_alpha / lora_rank."""
    lora_dropout: float = 0.0
    """Probability of leaving out an input feature of an adapter."""
    lora_targets: tuple[str, ...] = ("query", "value")
    """The linear layers that get one, by the ends of their paths: query, key, value, output, up, gate, down."""

    def __post_init__(self):
        check_types(self, "tune")
        blocks = self.last_blocks
        require(blocks is None or blocks >= 0, "tune.last_blocks", blocks, "an integer of at least 0, or None")
        require(self.lora_rank >= 0, "tune.lora_rank", self.lora_rank, "an integer of at least 0")
        require(blocks is None or self.lora_rank == 0, "tune.lora_rank", self.lora_rank, "0 beside tune.last_blocks")
        require(self.lora_alpha > 0, "tune.lora_alpha", self.lora_alpha, "a number above 0")
        require(0 <= self.lora_dropout < 1, "tune.lora_dropout", self.lora_dropout, "a number in [0, 1)")
        require(len(self.lora_targets) > 0, "tune.lora_targets", self.lora_targets, "one or more")


@dataclass(frozen=True)
class TrainConfig:
    """Everything a run depends on."""

    objective: Literal["causal_lm", "classification", "instruction", "masked_lm", "preference", "seq2seq"] = "causal_lm"
    """What is learnt: the next token, the class of a text, answers, the masked tokens, which of two answers is better
    (direct preference optimization), or one text from another."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The architecture; its vocab_size grows to the tokenizer's where that is larger."""
    data: DataConfig = field(default_factory=DataConfig)
    """The text."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """The update."""
    train: LoopConfig = field(default_factory=LoopConfig)
    """The loop."""
    tune: TuneConfig = field(default_factory=TuneConfig)
    """What of the model is trained."""
    mesh: MeshConfig = field(default_factory=MeshConfig)
    """The devices."""
    out: str = "runs/run"
    """Run directory (runs/run: runs/ and the config file's name)."""
    init_from: str | None = None
    """Run directory, or folder or repository of the hub, whose parameters, architecture and tokenizer to start from."""
    resume: bool = True
    """Go on from the run directory's last checkpoint; otherwise move an old run aside and start over."""

    def __post_init__(self):
        check_types(self)
        rows, parts = self.train.batch_size // self.train.accumulation, self.mesh.data * self.mesh.fsdp
        expected = f"a multiple of mesh.data x mesh.fsdp = {parts} in each of the {self.train.accumulation} parts"
        require(rows % parts == 0, "train.batch_size", self.train.batch_size, expected)
        for axis, name in (("tensor", "n_heads"), ("tensor", "kv_heads"), ("sequence", "context_length")):
            parts, size = getattr(self.mesh, axis), getattr(self.model, name)
            shown = {"kv_heads": "n_kv_heads"}.get(name, name)
            require(size % parts == 0, f"mesh.{axis}", parts, f"a divisor of model.{shown}={size}")


SECTIONS = {name: kind for name, kind in get_type_hints(TrainConfig).items() if dataclasses.is_dataclass(kind)}


def load_config(argv: list[str], default: str) -> TrainConfig:
    """The config file named first (or the default one), changed by the options after it.

    Prints help or one clear error and exits where that is what the command line asks for or deserves.
    """
    named = bool(argv) and not argv[0].startswith("-")
    path, options = (Path(argv[0]), argv[1:]) if named else (Path(default), argv)
    try:
        base = _read(path)
        if base.out == TrainConfig.out:
            base = dataclasses.replace(base, out=f"runs/{path.stem}")
        config = tyro.cli(
            TrainConfig,
            default=base,
            args=options,
            prog="python train.py [CONFIG.py]",
            description=f"Train a model. Defaults are those of {path}.",
            use_underscores=True,
            config=(tyro.conf.AvoidSubcommands,),
        )
        # Not in LoopConfig: a run's config is read where only its model is needed.
        writes = not config.train.tensorboard or find_spec("tensorboardX") is not None
        require(writes, "train.tensorboard", True, "False, or tensorboardX: pip install 'jaxgpt[tensorboard]'")
        return config
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def _read(path: Path) -> TrainConfig:
    if not path.is_file():
        raise FileNotFoundError(f"config: found no file {path}, expected a .py file with a `config = TrainConfig(...)`")
    try:
        config = _run(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(config, TrainConfig):
        raise ValueError(f"{path}: found config of type {type(config).__name__}, expected a TrainConfig")
    return config


def _run(path: Path) -> Any:
    """What the file calls config. Raises ValueError for a field that its config doesn't have."""
    try:
        return runpy.run_path(str(path)).get("config")
    except TypeError as error:
        kinds = {kind.__name__: (kind, section) for section, kind in [("", TrainConfig), *SECTIONS.items()]}
        found = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
        if found and found[1] in kinds:
            check_names([found[2]], *kinds[found[1]])
        raise


def to_json(config: TrainConfig) -> str:
    """The config as JSON, every field written out."""
    return json.dumps(dataclasses.asdict(config), indent=2)


def from_json(text: str) -> TrainConfig:
    """The inverse of `to_json`. Raises ValueError for what it did not write, a field of another version say."""
    try:
        values = json.loads(text)
    except ValueError as error:
        raise ValueError(f"found bad JSON ({error}), expected a config") from error
    if not isinstance(values, dict):
        raise ValueError(f"found a JSON {type(values).__name__}, expected a config")
    check_names(values, TrainConfig)
    values.setdefault("tune", {})  # runs of before there was one trained all
    sections = {name: build(kind, values.get(name), name) for name, kind in SECTIONS.items()}
    return TrainConfig(**values | sections)


def build(kind: type, values: Any, section: str) -> Any:
    """The dataclass of these fields, those that hold a dataclass built alike; JSON has lists for tuples."""
    require(isinstance(values, dict), section, values, f"the fields of {kind.__name__}")
    check_names(values, kind, section)

    def value(name, found):
        inner = next((k for k in (hints[name], *get_args(hints[name])) if dataclasses.is_dataclass(k)), None)
        if inner is not None and isinstance(found, dict):
            return build(inner, found, f"{section}.{name}")
        return _tuples(found)

    hints = get_type_hints(kind)
    return kind(**{name: value(name, found) for name, found in values.items()})


def _tuples(found: Any) -> Any:
    return tuple(map(_tuples, found)) if isinstance(found, list) else found


def differences(old: TrainConfig, new: TrainConfig) -> list[str]:
    """The fields on which a run's numbers depend and that differ, as "train.steps: 100 there, 200 here"."""
    free = {"out", "resume", "train.keep", "train.log_every", "train.save_every", "train.tensorboard"}
    free |= {"train.sample_every", "train.sample_prompt", "train.sample_tokens", "train.steps_per_dispatch"}
    before, after = _flat(dataclasses.asdict(old)), _flat(dataclasses.asdict(new))
    names = [n for n in after if n not in free and not n.startswith("mesh.") and before.get(n) != after[n]]
    return [f"{name}: {before.get(name)!r} there, {after[name]!r} here" for name in names]


def _flat(tree: dict) -> dict:
    out = {}
    for name, value in tree.items():
        out |= {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
    return out
