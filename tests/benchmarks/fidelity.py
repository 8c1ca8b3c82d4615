"""How near every family of checkpoints comes to transformers in float64: logits, greedy tokens, gradients. A table.

    python tests/benchmarks/fidelity.py [FAMILY ...] [--seed 0]

For each family transformers makes a tiny checkpoint at awkward sizes, every parameter drawn, which jaxgpt loads. Errors
are the largest absolute ones of any logit of a real token, against transformers in float64 on the same (for bfloat16:
rounded) weights: plain; token by token through the cache; in a padded batch; cut over 8 simulated devices; saved by
jaxgpt, loaded by transformers and computed there in float64. Then transformers' own error in the same dtype. Greedy:
how many of 64 tokens are transformers'. Gradients: of the mean cross-entropy, the largest error relative to the
largest of all. Needs the `parity` extra.
"""

import argparse
import os
import tempfile
import zlib
from pathlib import Path

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

import jaxgpt
from jaxgpt import bert, gpt, seq2seq
from jaxgpt.attention import KVCache
from jaxgpt.generation import generate_tokens
from jaxgpt.model import Model
from jaxgpt.pretrained.family import find
from jaxgpt.pretrained.folder import SHARD_BYTES
from jaxgpt.pretrained.mapping import file_tensors
from jaxgpt.sharding import MeshConfig, make_mesh
from jaxgpt.tokenizers import CharTokenizer
from jaxgpt.translation import translate_tokens

VOCAB, TIME, NEW = 61, 14, 64
NONE = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
GQA = {
    "vocab_size": VOCAB, "hidden_size": 24, "intermediate_size": 34, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "max_position_embeddings": 128, **NONE,
}  # fmt: skip
BERT = {
    "vocab_size": VOCAB, "hidden_size": 24, "intermediate_size": 34, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 40,
}  # fmt: skip
ROPE = {"rope_theta": 500.0}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
T5 = {
    "vocab_size": VOCAB, "d_model": 24, "d_kv": 5, "d_ff": 34, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 4,
    "n_positions": 128, "decoder_start_token_id": 0,
}  # fmt: skip
FAMILIES = {
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", {
        "vocab_size": VOCAB, "n_positions": 128, "n_embd": 24, "n_layer": 2, "n_head": 4, "n_inner": 34, **NONE}),
    "llama": ("LlamaForCausalLM", "LlamaConfig", GQA | {
        "rope_parameters": ROPE | LLAMA3 | {"original_max_position_embeddings": 20}}),
    "mistral": ("MistralForCausalLM", "MistralConfig", GQA | {"sliding_window": 5, "rope_parameters": ROPE}),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", GQA | {"rope_parameters": ROPE, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", GQA | {"rope_parameters": ROPE, "head_dim": 6}),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", GQA | {"original_max_position_embeddings": 32, "rope_parameters": ROPE | {
        "rope_type": "longrope", "short_factor": [1.0, 1.5], "long_factor": [2.0, 7.0]}}),
    "bert": ("BertForMaskedLM", "BertConfig", BERT),
    "roberta": ("RobertaForMaskedLM", "RobertaConfig", BERT | {"pad_token_id": 1, "type_vocab_size": 1}),
    "distilbert": ("DistilBertForMaskedLM", "DistilBertConfig", {
        "vocab_size": VOCAB, "dim": 24, "hidden_dim": 34, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 40}),
    "marian": ("MarianMTModel", "MarianConfig", {
        "vocab_size": VOCAB, "d_model": 24, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 34, "decoder_ffn_dim": 34, "max_position_embeddings": 128,
        "scale_embedding": True, "activation_function": "swish", "pad_token_id": VOCAB - 1, "eos_token_id": 0,
        "decoder_start_token_id": 2}),  # not padding, as opus-mt has it: PyTorch gives its row no gradient
    "t5": ("T5ForConditionalGeneration", "T5Config", T5),
    "t5 1.1": ("T5ForConditionalGeneration", "T5Config", T5 | {"feed_forward_proj": "gated-gelu"}),
}  # fmt: skip


class Case:
    """A family's checkpoint in a folder, its tokens, and transformers' float64 numbers of them."""

    def __init__(self, name: str, dtype: str, folder: Path, seed: int):
        architecture, config, values = FAMILIES[name]
        self.architecture, self.dtype, self.folder = getattr(transformers, architecture), dtype, folder
        peer = self.architecture(getattr(transformers, config)(**values)).eval()
        for path, parameter in peer.named_parameters():
            rng = np.random.default_rng(zlib.crc32(f"{seed}{path}".encode()))
            gain = parameter.ndim == 1 and path.endswith("weight")
            drawn = torch.tensor(rng.normal(1.0 if gain else 0.0, 0.25, parameter.shape), dtype=torch.float32)
            parameter.data = drawn.to(getattr(torch, dtype))
        peer.save_pretrained(folder)
        CharTokenizer(chr(ord("A") + i) for i in range(VOCAB)).save(folder)
        self.model = jaxgpt.load(folder)
        self.kind = self.model.config.architecture
        rng = np.random.default_rng(seed)
        self.tokens, self.targets = rng.integers(3, VOCAB - 1, (2, 3, TIME))
        self.mask = np.arange(TIME) < np.array([[TIME], [9], [2]])
        self.reference = self.peer(folder, "float64")

    def peer(self, folder: Path, dtype: str):
        return self.architecture.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()

    def inputs(self, mask: np.ndarray) -> dict[str, torch.Tensor]:
        tokens, mask = torch.tensor(self.tokens), torch.tensor(mask.astype(int))
        if self.kind != "encoder-decoder":
            return {"input_ids": tokens, "attention_mask": mask}
        start = torch.full((3, 1), self.model.generation.start_token)
        target = torch.cat([start, tokens.flip(1)[:, :-1]], 1)
        return {"input_ids": tokens, "attention_mask": mask, "decoder_input_ids": target}

    def peer_logits(self, peer, mask: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return peer(**self.inputs(mask)).logits.double().numpy()

    def logits(self, model: Model, mask: np.ndarray | None = None) -> jax.Array:
        tokens = jnp.array(self.tokens)
        if self.kind == "encoder-decoder":
            target = jnp.array(self.inputs(self.mask)["decoder_input_ids"].numpy())
            return jax.jit(seq2seq.apply, static_argnums=3)(
                model.params, tokens, target, model.config, source_mask=mask
            )
        apply = gpt.apply if self.kind == "decoder" else bert.apply
        return jax.jit(apply, static_argnums=2)(model.params, tokens, model.config, mask=mask)

    def cached(self) -> np.ndarray | None:
        """A few tokens, then one by one."""
        cfg, params = self.model.config, self.model.params
        if self.kind == "encoder":
            return None
        cache, out = KVCache.empty(cfg, 3, TIME), []
        if self.kind == "decoder":
            tokens, step = jnp.array(self.tokens), jax.jit(gpt.apply, static_argnums=2)
        else:
            tokens = jnp.array(self.inputs(self.mask)["decoder_input_ids"].numpy())
            memory = seq2seq.remember(params, seq2seq.encode(params, jnp.array(self.tokens), cfg), cfg)
            decode = jax.jit(seq2seq.decode, static_argnums=3)

            def step(params, tokens, cfg, cache):
                return decode(params, memory, tokens, cfg, cache=cache)

        for start, end in ((0, 3), *((i, i + 1) for i in range(3, TIME))):
            logits, cache = step(params, tokens[:, start:end], cfg, cache=cache)
            out.append(logits)
        return np.concatenate(out, 1)

    def greedy(self) -> str | None:
        """How many tokens of the first row are transformers', before the first that is not, of those made."""
        if self.kind == "encoder":
            return None
        ids, cfg, peer = self.tokens[0].tolist(), self.model.config, self.peer(self.folder, self.dtype)
        start = self.model.generation.start_token
        peer.generation_config = transformers.GenerationConfig(
            max_new_tokens=NEW, decoder_start_token_id=start, pad_token_id=0, use_cache=self.kind == "decoder"
        )
        tokens = torch.tensor([ids])
        with torch.no_grad():
            theirs = peer.generate(tokens, attention_mask=torch.ones_like(tokens))[0].tolist()[-NEW:]
        if self.kind == "decoder":
            ours = generate_tokens(self.model.params, [ids], cfg, max_new_tokens=NEW)[0]
        else:  # which may end before transformers, that is told of no end
            options = {"start": start, "end": 0, "beam": 1, "max_new_tokens": NEW}
            ours = translate_tokens(self.model.params, [ids], cfg, **options)[0]
        same = [a == b for a, b in zip(ours, theirs, strict=False)]
        return f"{[*same, False].index(False)}/{len(ours)}"

    def gradients(self) -> float:
        logits = self.reference(**self.inputs(np.ones_like(self.mask))).logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.tensor(self.targets).flatten()).backward()
        theirs = {name: p.grad.numpy() for name, p in self.reference.named_parameters() if p.grad is not None}

        def loss(params):
            logits = self.logits(Model(self.model.config, params, self.model.tokenizer, self.model.settings))
            return -jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.array(self.targets)[..., None], -1).mean()

        ours = jax.grad(loss)(self.model.params)
        mapping = find(self.model.settings.family).tensors(self.model.config)
        largest, worst = max(np.abs(x).max() for x in theirs.values()), 0.0
        for name, found in file_tensors(mapping, ours):
            if name in theirs:
                worst = max(worst, np.abs(found.astype(np.float64) - theirs[name]).max())
        return worst / largest

    def row(self) -> list[float | str | None]:
        full = np.ones_like(self.mask)
        wanted = self.peer_logits(self.reference, full)

        def error(found, mask=full, wanted=wanted):
            return None if found is None else float(np.abs(np.asarray(found, np.float64) - wanted)[mask].max())

        padded = self.peer_logits(self.reference, self.mask)
        rows = full if self.kind == "encoder-decoder" else self.mask
        mesh = make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))
        with jax.set_mesh(mesh):
            sharded = self.logits(jaxgpt.load(self.folder, mesh=mesh))
        again = self.folder / "again"
        jaxgpt.save(self.model, again, max_shard_bytes=SHARD_BYTES)
        return [
            error(self.logits(self.model)),
            error(self.cached()),
            error(self.logits(self.model, jnp.array(self.mask)), rows, padded),
            error(sharded),
            error(self.peer_logits(self.peer(again, "float64"), full)),
            error(self.peer_logits(self.peer(self.folder, self.dtype), full)),
            self.greedy(),
            self.gradients(),
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", default=list(FAMILIES))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    columns = ["plain", "cached", "padded", "8 devices", "saved", "transformers", "greedy", "gradient"]
    print(f"| family | dtype | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 2)}")
    for dtype in ("float32", "bfloat16"):
        for name in args.families:
            with tempfile.TemporaryDirectory() as folder:
                found = Case(name, dtype, Path(folder), args.seed).row()
            shown = ["" if x is None else x if isinstance(x, str) else f"{x:.0e}" for x in found]
            print(f"| {name} | {dtype} | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    main()
