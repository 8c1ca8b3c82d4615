"""A Llama of 1.1 billion parameters, from disk to tokens, here and in transformers: seconds, peak memory, tokens/s.

    python tests/benchmarks/billion.py [--dtype bfloat16] [--batch 1 8] [--new 16] [--alone] [--folder DIR]

The checkpoint (TinyLlama's shape, random, bfloat16, 2.2 GB in shards) is made on the spot and deleted after. Each load
runs in a process of its own, whose peak is what the operating system counted; decoding is greedy from 32 tokens, each
program in its process, in turn. The last part cuts the model over 8 simulated devices (fsdp): the largest share of a
device. The floor of a step is one reading of the weights at the speed of a large copy. --alone leaves transformers out.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

PROMPT = 32


def make(folder: Path) -> None:
    """Write the checkpoint, a tensor at a time."""
    import jax
    import ml_dtypes

    from jaxgpt import config
    from jaxgpt import params as P
    from jaxgpt.model import declarations
    from jaxgpt.pretrained.family import find
    from jaxgpt.pretrained.files import write_folder
    from jaxgpt.tokenizers import CharTokenizer

    cfg = config.ModelConfig(
        vocab_size=32000, context_length=2048, d_model=2048, n_layers=22, n_heads=32, n_kv_heads=4, d_ff=5632,
        norm="rms", position="rotary", activation="silu", gated=True, bias=False, tie_embeddings=False,
    )  # fmt: skip
    family = find("llama")
    declared = jax.tree.leaves(P.by_layer(declarations(cfg)))
    entries = jax.tree.leaves(family.tensors(cfg))
    rng = np.random.default_rng(0)
    block = (rng.standard_normal(1 << 20, np.float32) * 0.02).astype(ml_dtypes.bfloat16)

    def tensors():
        for entry, param in zip(entries, declared, strict=True):
            shape = entry.shape(param.shape)
            size = int(np.prod(shape))
            yield entry.name, np.resize(block, size).reshape(shape)

    write_folder(folder, tensors(), max_shard_bytes=10**9)
    fields = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "dtype": "bfloat16", **family.write(cfg)}
    (folder / "config.json").write_text(json.dumps(fields))
    CharTokenizer("abc").save(folder)


def peak_gigabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def ours(folder: str, dtype: str, batches: list[int], new: int) -> dict:
    import jax

    import jaxgpt
    from jaxgpt.generation import generate_tokens

    begun = time.perf_counter()
    model = jaxgpt.load(folder, dtype=dtype)
    jax.block_until_ready(model.params)
    out = {"load_s": time.perf_counter() - begun, "load_peak_gb": peak_gigabytes()}
    out["params_gb"] = sum(x.nbytes for x in jax.tree.leaves(model.params)) / 1e9
    for batch in batches:
        prompts = np.random.default_rng(0).integers(0, 32000, (batch, PROMPT)).tolist()

        def run(n, prompts=prompts):
            begun = time.perf_counter()
            generate_tokens(model.inference_params, prompts, model.inference_config, max_new_tokens=n)
            return time.perf_counter() - begun

        run(1), run(new)
        out[f"step_ms_{batch}"] = min((run(new) - run(1)) / (new - 1) for _ in range(3)) * 1e3
    return out | {"peak_gb": peak_gigabytes()}


def theirs(folder: str, dtype: str, batches: list[int], new: int) -> dict:
    import torch
    import transformers

    begun = time.perf_counter()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    out = {"load_s": time.perf_counter() - begun, "load_peak_gb": peak_gigabytes()}
    out["params_gb"] = sum(p.nbytes for p in model.parameters()) / 1e9
    for batch in batches:
        prompts = torch.tensor(np.random.default_rng(0).integers(0, 32000, (batch, PROMPT)))

        def run(n, prompts=prompts):
            begun = time.perf_counter()
            with torch.no_grad():
                model.generate(
                    prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=n, min_new_tokens=n,
                    do_sample=False, pad_token_id=0,
                )  # fmt: skip
            return time.perf_counter() - begun

        run(1), run(new)
        out[f"step_ms_{batch}"] = min((run(new) - run(1)) / (new - 1) for _ in range(3)) * 1e3
    return out | {"peak_gb": peak_gigabytes()}


def sharded(folder: str) -> dict:
    """The largest share of a device, of the bytes of all, where 8 devices hold the model."""
    import jax

    import jaxgpt
    from jaxgpt.sharding import MeshConfig, make_mesh

    model = jaxgpt.load(folder, mesh=make_mesh(MeshConfig(fsdp=8)))
    held = dict.fromkeys(jax.devices(), 0)
    for leaf in jax.tree.leaves(model.params):
        for shard in leaf.addressable_shards:
            held[shard.device] += shard.data.nbytes
    whole = sum(x.nbytes for x in jax.tree.leaves(model.params))
    return {"largest_share": max(held.values()) / whole, "peak_gb": peak_gigabytes(), "params_gb": whole / 1e9}


def apart(function: str, *arguments, devices: int = 1) -> dict:
    """What one of the functions above returns, in a process of its own."""
    code = f"import json, billion; print(json.dumps(billion.{function}(*{arguments!r})))"
    here = Path(__file__).resolve().parent
    paths = os.pathsep.join([str(here), str(here.parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths}
    if devices > 1:
        environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    if run.returncode:
        sys.exit(run.stderr[-2000:])
    return json.loads(run.stdout.splitlines()[-1])


def main() -> None:
    from decode import bandwidth

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--new", type=int, default=16)
    parser.add_argument("--alone", action="store_true")
    parser.add_argument("--folder", help="where to make the checkpoint, and keep it")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.folder or temporary)
        if not (folder / "config.json").exists():
            apart("make_in", str(folder))
        found = {"jaxgpt": apart("ours", str(folder), args.dtype, args.batch, args.new)}
        if not args.alone:
            found["transformers"] = apart("theirs", str(folder), args.dtype, args.batch, args.new)
        for name, row in found.items():
            shown = ", ".join(f"{key} {value:.2f}" for key, value in row.items())
            print(f"{name:12} {args.dtype}: {shown}", flush=True)
        floor = found["jaxgpt"]["params_gb"] * 1e9 / bandwidth() * 1e3
        for batch in args.batch:
            step = found["jaxgpt"][f"step_ms_{batch}"]
            print(f"batch {batch}: {1e3 * batch / step:.1f} tokens/s, floor {floor:.0f} ms of {step:.0f} ms")
            if not args.alone:
                print(f"batch {batch}: transformers/jaxgpt {found['transformers'][f'step_ms_{batch}'] / step:.2f}")
        row = apart("sharded", str(folder), devices=8)
        print("8 devices, fsdp: " + ", ".join(f"{key} {value:.3f}" for key, value in row.items()))


def make_in(folder: str) -> dict:
    make(Path(folder))
    return {}


if __name__ == "__main__":
    main()
