"""Make decoder_families.npz beside this script (needs torch and transformers 5).

python tests/golden/make_decoder_families.py

Of a tiny checkpoint of each family of decoders: config.json, its tensors by the names of the file, drawn at random and
rounded to float16, and what transformers computes from them in float64: logits, and the 33 tokens that follow.
Under 150 KB; make it again only to change what it covers.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

from decoder_peers import GPT2, LLAMA, LLAMA3, PHI3, YARN, draw_text, make, rope, tensors_of  # noqa: E402

SMALL = {"max_position_embeddings": 48}
SLIDES = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 0}
LONG = {"short_factor": [1.0, 1.5, 1.25], "long_factor": [2.0, 7.0, 3.0]}
CHECKPOINTS = {
    "gpt2": ("GPT2", GPT2 | {"n_positions": 48}),
    "llama": ("Llama", LLAMA | SMALL | rope("llama3", **LLAMA3) | {"attention_bias": True, "mlp_bias": True}),
    "mistral": ("Mistral", LLAMA | SMALL | rope() | {"sliding_window": 5, "num_hidden_layers": 1}),
    "qwen2": (
        "Qwen2",
        LLAMA | SMALL | rope("yarn", **YARN) | SLIDES | {"tie_word_embeddings": True, "num_hidden_layers": 1},
    ),
    "qwen3": ("Qwen3", LLAMA | SMALL | rope() | {"head_dim": 8, "tie_word_embeddings": True, "num_hidden_layers": 1}),
    "phi3": ("Phi3", PHI3 | SMALL | rope("longrope", **LONG) | {"original_max_position_embeddings": 16}),
}


def checkpoint(kind: str, values: dict) -> dict[str, np.ndarray]:
    model = make(kind, values).double()
    for parameter in model.parameters():
        parameter.data = parameter.data.half().double()
    with tempfile.TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        config = json.loads((Path(folder) / "config.json").read_text())
    config["architectures"] = [type(model).__name__]
    tokens = torch.tensor(draw_text(1, 11))
    with torch.no_grad():
        logits = model(tokens).logits
    greedy = model.generate(
        tokens, attention_mask=torch.ones(1, 11), do_sample=False, max_new_tokens=33, pad_token_id=0
    )
    out = {"config": np.array(json.dumps(config)), "tokens": tokens[0].numpy().astype(np.int8)}
    out |= {"logits": logits[0].numpy().astype(np.float32), "greedy": greedy[0, 11:].numpy().astype(np.int8)}
    return out | {f"tensor/{name}": x.detach().numpy().astype(np.float16) for name, x in tensors_of(model)}


if __name__ == "__main__":
    arrays = {f"{name}/{path}": x for name, made in CHECKPOINTS.items() for path, x in checkpoint(*made).items()}
    file = HERE / "decoder_families.npz"
    np.savez_compressed(file, **arrays)
    print(f"{file.name}: {file.stat().st_size:,} bytes")
