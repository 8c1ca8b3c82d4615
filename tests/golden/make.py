"""Make the golden files beside this script: python tests/golden/make.py (needs torch and transformers 5).

Each holds what Hugging Face's implementation computes in float64 from the parameters in it, which are all drawn at
random (biases and gains too) and rounded to float16, so that half the bytes are exact. Gradients are of the mean
cross-entropy of `targets`. The files together are under 200 KB; make them again only to change what they cover.
"""

import zlib
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers.models.t5.modeling_t5 import T5Attention

HERE = Path(__file__).resolve().parent
STORIES = HERE.parents[2] / "shared" / "data" / "stories260K"


def model_file(name: str, model: torch.nn.Module, vocab_size: int, shape: tuple[int, int]) -> None:
    """Parameters, inputs, targets, logits, loss and every gradient of one tiny model."""
    model = model.eval().double()
    for path, parameter in model.named_parameters():
        rng = np.random.default_rng(zlib.crc32(path.encode()))
        gain = parameter.ndim == 1 and path.endswith("weight")
        drawn = rng.normal(1.0 if gain else 0.0, 0.2, parameter.shape).astype(np.float16)
        parameter.data = torch.tensor(drawn.astype(np.float64))
    text = np.random.default_rng(0).integers(0, vocab_size, (shape[0], shape[1] + 1))
    inputs, targets = torch.tensor(text[:, :-1]), torch.tensor(text[:, 1:])
    logits = model(inputs).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    loss.backward()
    out = {"inputs": text[:, :-1], "targets": text[:, 1:], "logits": logits.detach().numpy().astype(np.float32)}
    out = out | {"loss": np.float64(loss.item())}
    for path, parameter in model.named_parameters():
        out[f"param/{path}"] = parameter.detach().numpy().astype(np.float16)
        out[f"grad/{path}"] = parameter.grad.numpy().astype(np.float32)
    np.savez_compressed(HERE / name, **out)


def gpt1() -> None:
    config = transformers.OpenAIGPTConfig(vocab_size=37, n_positions=11, n_embd=12, n_layer=2, n_head=3)
    model_file("gpt1.npz", transformers.OpenAIGPTLMHeadModel(config), 37, (3, 11))


def gpt2() -> None:
    config = transformers.GPT2Config(vocab_size=47, n_positions=19, n_embd=15, n_layer=3, n_head=3)
    model_file("gpt2.npz", transformers.GPT2LMHeadModel(config), 47, (2, 19))


def llama() -> None:
    config = transformers.LlamaConfig(
        vocab_size=41,
        hidden_size=18,
        intermediate_size=23,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=4,
        max_position_embeddings=17,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 12345.0},
        tie_word_embeddings=False,
    )
    model_file("llama.npz", transformers.LlamaForCausalLM(config), 41, (3, 17))


def stories() -> None:
    """The real checkpoint: its own greedy text as ids, and the logits of the first of them."""
    model = transformers.LlamaForCausalLM.from_pretrained(STORIES, dtype=torch.float64).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(STORIES)
    prompt = tokenizer("Once upon a time", return_tensors="pt").input_ids
    greedy = model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=64)
    print("stories260K:", tokenizer.decode(greedy[0]))
    with torch.no_grad():
        logits = model(greedy[:, :9]).logits.numpy().astype(np.float32)
    np.savez_compressed(HERE / "stories260K.npz", prompt=prompt.numpy(), greedy=greedy.numpy(), logits=logits)


def t5_buckets() -> None:
    """T5's bucket of each distance (key place - query place), both ways, at its defaults and at odd sizes."""
    distance = np.arange(-150, 151)
    out = {"distance": distance}
    for buckets, far in ((32, 128), (14, 50)):
        for bidirectional in (False, True):
            found = T5Attention._relative_position_bucket(torch.tensor(distance), bidirectional, buckets, far)
            out[f"{buckets}/{far}/{bidirectional}"] = found.numpy().astype(np.int8)
    np.savez_compressed(HERE / "t5_buckets.npz", **out)


if __name__ == "__main__":
    for make in (gpt1, gpt2, llama, stories, t5_buckets):
        make()
    for file in sorted(HERE.glob("*.npz")):
        print(f"{file.name}: {file.stat().st_size:,} bytes")
