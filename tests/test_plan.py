"""TPU without a TPU: the train and decode programs of every config compile for a v5e:2x2, with the bytes a chip needs.

Needs the `plan` extra (libtpu). Each compilation runs in a process of its own, since libtpu reads its environment once.
"""

import importlib.util
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TUNES = ("finetune", "lora")  # the beginnings of those whose model is what they are told to start from
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.py") if not path.stem.startswith(TUNES))
SLOW = ("bert_base", "translate_multi30k")  # two minutes each
MARKS = {"quickstart": []} | {name: [pytest.mark.slow] for name in SLOW}

PLAN = """
import dataclasses, runpy, sys
import jax, jax.numpy as jnp
from jax.experimental import topologies
from jaxgpt import bert, params
from jaxgpt.attention import KVCache
from jaxgpt.beam import advance, begin
from jaxgpt.decoding import Rows, decode_chunk, read_sources
from jaxgpt.model import prepare
from jaxgpt.sharding import MeshConfig, make_mesh, named
from jaxgpt.training import objectives
from jaxgpt.training.optimizer import make_optimizer
from jaxgpt.training.state import abstract_state
from jaxgpt.training.step import compile_train

config = runpy.run_path(sys.argv[1])["config"]
model, loop = config.model, config.train
devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices
mesh = make_mesh(MeshConfig(data=2, fsdp=2), list(devices))
objective = objectives.find(config.objective)
declarations = objective.declare(model)
optimizer = make_optimizer(config.optimizer, loop.steps, params.decay_mask(declarations))
state = abstract_state(declarations, optimizer, mesh)
update = compile_train(model, objective, optimizer, mesh, loop.accumulation)
k, rows, time = loop.steps_per_dispatch, loop.batch_size, model.context_length
shapes = {  # of a block, by objective
    "causal_lm": {"inputs": (jnp.int32, time), "targets": (jnp.int32, time)},
    "masked_lm": {"inputs": (jnp.int32, time)} | dict.fromkeys(["positions", "targets"], (jnp.int32, time // 7)),
    "seq2seq": {"source": (jnp.int32, time), "source_mask": (bool, time), "weights": (jnp.float32, time)}
    | dict.fromkeys(["inputs", "targets"], (jnp.int32, time)),
}[config.objective]
block = {
    name: jax.ShapeDtypeStruct((k, rows, n), kind, sharding=named((None, "batch", "time"), (k, rows, n), mesh))
    for name, (kind, n) in shapes.items()
}
weights = jax.eval_shape(lambda p: prepare(p, model.dtype), params.abstract(declarations))
ids, number = jax.ShapeDtypeStruct((model.vocab_size,), bool), jax.ShapeDtypeStruct((), jnp.int32)
four = jax.ShapeDtypeStruct((4, time), jnp.int32)


def use():  # by what a trained model is used: a chunk of tokens, a beam search, blanks filled in
    if config.objective == "causal_lm":
        cache = jax.eval_shape(lambda: KVCache.empty(model, 4))
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 4))
        texts = Rows(*(jax.ShapeDtypeStruct((4,), kind) for kind in (jnp.int32, bool, keys.dtype, jnp.int32)), None)
        return decode_chunk.lower(weights, cache, texts, {"temperature": 1.0}, ids, ids, number, cfg=model)
    if config.objective == "seq2seq":
        lengths = jax.ShapeDtypeStruct((4,), jnp.int32)
        memory = jax.eval_shape(lambda *x: read_sources(*x, model), weights, four, lengths)
        real = jax.ShapeDtypeStruct((), jnp.float32)
        begun = jax.eval_shape(lambda *x: begin(*x, model, 4, 32), memory, lengths)
        return advance.lower(weights, begun, number, number, ids, real, real, number, cfg=model)
    return jax.jit(lambda p, x: bert.apply(p, x, model)).lower(weights, four)


with jax.set_mesh(mesh):
    compiled = update.lower(state, block, number).compile()
    used = use().compile()
for name, program in (("train", compiled), ("use", used)):
    memory = program.memory_analysis()
    size = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    print(f"{name}: {size / 2**20:.1f} MiB a chip ({memory.argument_size_in_bytes / 2**20:.1f} of arguments)")
    print(f"{name} kernels: {program.as_text().count('tpu_custom_call')}")
"""


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the plan extra: pip install '.[plan]'")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=MARKS.get(name, [pytest.mark.thorough])) for name in CONFIGS]
)
def test_every_config_compiles_for_a_tpu(name, capsys):
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "XLA_FLAGS": ""}
    command = [sys.executable, "-c", PLAN, str(ROOT / "configs" / f"{name}.py")]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    with capsys.disabled():
        print(f"\n{name} on v5e:2x2\n{done.stdout}", end="")
    train, use = (int(n) for n in re.findall(r"\w+ kernels: (\d+)", done.stdout))
    model = runpy.run_path(str(ROOT / "configs" / f"{name}.py"))["config"].model
    fused = model.context_length % 128 == 0  # splash, wherever it takes the length
    assert (train > 0) == (fused and model.dropout == 0)
    assert (use > 0) == (fused and model.architecture == "encoder")  # decoding has one query a row
