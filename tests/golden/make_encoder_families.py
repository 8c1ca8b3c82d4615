"""Make the golden checkpoints of encoders and encoder-decoders: python tests/golden/make_encoder_families.py.

Needs torch and transformers 5. Each file holds a config.json, the tensors of a model.safetensors (drawn at random and
rounded to float16), padded inputs, what transformers computes of them in float64, and, of an encoder-decoder, its
greedy targets of up to 64 tokens, filled up with -1. The files together are under 150 KB.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import peers  # noqa: E402

NAMES = ("bert-pretraining", "roberta-sequence", "distilbert-lm", "marian", "t5", "flan")


def make(name: str) -> Path:
    kind, values = peers.CASES[name]
    with tempfile.TemporaryDirectory() as folder:
        peer = peers.make(kind, values, Path(folder), half=True)
        out = {"config": np.array((Path(folder) / "config.json").read_text())}
        tensors = load_file(Path(folder) / "model.safetensors")
    out |= {f"tensor/{key}": x.astype(np.float16) for key, x in tensors.items()}
    if name in peers.ENCODERS:
        inputs = peers.encoder_inputs(values)
        found = peers.encoder_outputs(peer.double(), inputs)
    else:
        inputs = peers.translator_inputs(values)
        targets, margins = peers.generate(peer, inputs, values, max_new_tokens=64)
        assert margins.min() > 2e-4, "a near-tie: another draw"
        width = max(map(len, targets))
        greedy = np.array([target + [-1] * (width - len(target)) for target in targets])
        found = {"logits": peers.translator_logits(peer.double(), inputs), "greedy": greedy}
    out |= {f"input/{key}": x for key, x in inputs.items()}
    out |= {f"output/{key}": x.astype(np.float32 if x.dtype == np.float64 else x.dtype) for key, x in found.items()}
    file = HERE / f"family_{name}.npz"
    np.savez_compressed(file, **out)
    return file


if __name__ == "__main__":
    for name in NAMES:
        file = make(name)
        print(f"{file.name}: {file.stat().st_size:,} bytes")
