"""transformers' encoders and encoder-decoders at awkward sizes, every parameter drawn, as folders; and their numbers.

Of its functions only `unpack` and `parameters` need neither torch nor transformers.
"""

import tempfile
import zlib
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from jaxgpt import params as P
from jaxgpt.config import ModelConfig
from jaxgpt.model import declarations
from jaxgpt.pretrained.family import find
from jaxgpt.pretrained.files import SINGLE, open_folder, write_folder
from jaxgpt.pretrained.folder import stacked
from jaxgpt.pretrained.mapping import load_tree
from jaxgpt.tokenizers import CharTokenizer

TOKENIZER = CharTokenizer(chr(ord("A") + i) for i in range(23))  # a folder must have one; no test reads text
DROPOUTS = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.2}
BERT = {
    "vocab_size": 37, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 17,
    "max_position_embeddings": 13, "type_vocab_size": 3, "layer_norm_eps": 1e-4, **DROPOUTS,
}  # fmt: skip
ROBERTA = BERT | {"vocab_size": 31, "max_position_embeddings": 16, "type_vocab_size": 1, "pad_token_id": 2}
ROBERTA |= {"bos_token_id": 0, "eos_token_id": 1}
DISTIL = {
    "vocab_size": 29, "dim": 15, "n_layers": 2, "n_heads": 5, "hidden_dim": 11, "max_position_embeddings": 12,
    "dropout": 0.2, "attention_dropout": 0.2, "seq_classif_dropout": 0.2, "pad_token_id": 3,
}  # fmt: skip
MARIAN = {
    "vocab_size": 31, "d_model": 12, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 3,
    "decoder_attention_heads": 3, "encoder_ffn_dim": 19, "decoder_ffn_dim": 19, "max_position_embeddings": 80,
    "activation_function": "silu", "scale_embedding": True, "dropout": 0.2, "attention_dropout": 0.2,
    "pad_token_id": 30, "decoder_start_token_id": 30, "eos_token_id": 0, "forced_eos_token_id": None,
}  # fmt: skip
T5 = {
    "vocab_size": 27, "d_model": 10, "d_kv": 3, "d_ff": 15, "num_layers": 2, "num_decoder_layers": 1, "num_heads": 4,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 11, "layer_norm_epsilon": 1e-5,
    "dropout_rate": 0.2, "n_positions": 80, "pad_token_id": 0, "decoder_start_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
FLAN = T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
# Of each: the class, its config's fields, and what isn't as transformers would make it.
ENCODERS = {
    "bert-lm": ("BertForMaskedLM", BERT),
    "bert-untied": ("BertForMaskedLM", BERT | {"tie_word_embeddings": False, "hidden_act": "gelu_new"}),
    "bert-pretraining": ("BertForPreTraining", BERT),
    "bert-sequence": ("BertForSequenceClassification", BERT | {"num_labels": 3, "hidden_act": "relu"}),
    "bert-token": ("BertForTokenClassification", BERT | {"num_labels": 4, "type_vocab_size": 1}),
    "bert-bare": ("BertModel", BERT | {"num_attention_heads": 12}),
    "roberta-lm": ("RobertaForMaskedLM", ROBERTA),
    "roberta-untied": ("RobertaForMaskedLM", ROBERTA | {"tie_word_embeddings": False, "pad_token_id": 0}),
    "roberta-sequence": ("RobertaForSequenceClassification", ROBERTA | {"num_labels": 1, "hidden_act": "silu"}),
    "roberta-token": ("RobertaForTokenClassification", ROBERTA | {"type_vocab_size": 2}),
    "roberta-bare": ("RobertaModel", ROBERTA),
    "xlm-roberta-lm": ("XLMRobertaForMaskedLM", ROBERTA),
    "distilbert-lm": ("DistilBertForMaskedLM", DISTIL),
    "distilbert-untied": ("DistilBertForMaskedLM", DISTIL | {"tie_word_embeddings": False, "activation": "relu"}),
    "distilbert-sequence": ("DistilBertForSequenceClassification", DISTIL | {"num_labels": 3}),
    "distilbert-token": ("DistilBertForTokenClassification", DISTIL | {"num_labels": 5}),
    "distilbert-bare": ("DistilBertModel", DISTIL),
}
TRANSLATORS = {
    "marian": ("MarianMTModel", MARIAN),
    "marian-plain": (
        "MarianMTModel",
        MARIAN | {"scale_embedding": False, "activation_function": "gelu", "encoder_layers": 1, "decoder_layers": 2},
    ),
    "t5": ("T5ForConditionalGeneration", T5),
    "t5-silu": ("T5ForConditionalGeneration", T5 | {"feed_forward_proj": "gated-silu", "num_decoder_layers": 3}),
    "t5-unscaled": ("T5ForConditionalGeneration", T5 | {"tie_word_embeddings": False}),  # as 5.24 makes it: tied
    "flan": ("T5ForConditionalGeneration", FLAN),
}
CASES = ENCODERS | TRANSLATORS
GOLDEN = Path(__file__).resolve().parent / "golden"


def make(name: str, values: dict, folder: Path, *, half: bool = False):
    """transformers' model of this class and these fields, read from the folder that it is written into first.

    Zero biases and unit gains hide mistakes: all is drawn, from a seed of its name; half: as float16 has it. The head
    of a gated T5 is its own, which transformers reads but never makes.
    """
    import torch
    import transformers

    kind = getattr(transformers, name)
    config = kind.config_class(**values)
    config.architectures = [name]
    model = kind(config).eval()
    state = model.state_dict()
    if config.model_type == "t5" and values.get("feed_forward_proj") == "gated-gelu":
        model.all_tied_weights_keys.pop("lm_head.weight")
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    translates = config.is_encoder_decoder
    with torch.no_grad():
        for path, tensor in [*model.named_parameters(), ("final_logits_bias", state.get("final_logits_bias"))]:
            if tensor is None or path.endswith("embed_positions.weight"):
                continue
            rng = np.random.default_rng(zlib.crc32(path.encode()))
            gain, bias = tensor.ndim == 1 and path.endswith("weight"), path.endswith("bias")
            # In a translator more of the state and less of the biases: its targets differ.
            spread = (0.1 if bias else 0.8 if "layers" in path or "block" in path else 0.5) if translates else 0.5
            drawn = rng.normal(1.0 if gain else 0.0, 0.5 if gain else spread, tensor.shape)
            if translates and path in ("lm_head.weight", "model.shared.weight"):
                drawn[config.eos_token_id] *= 2  # and end
            if path == "final_logits_bias":
                drawn[0, config.eos_token_id] = 2
            tensor.copy_(torch.tensor(drawn.astype("float16" if half else "float32")))
    model.save_pretrained(folder)
    TOKENIZER.save(folder)
    return model


def unpack(name: str, folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """Write the checkpoint that tests/golden/make_encoder_families.py kept; returns the inputs and outputs."""
    kept = np.load(GOLDEN / f"family_{name}.npz", allow_pickle=False)

    def part(begin, dtype=None):
        return {key.removeprefix(begin): np.asarray(kept[key], dtype) for key in kept if key.startswith(begin)}

    (folder / "config.json").write_text(str(kept["config"]))
    save_file(part("tensor/", "float32"), folder / SINGLE, {"format": "pt"})
    TOKENIZER.save(folder)
    return {"inputs": part("input/"), "outputs": part("output/")}


def parameters(family: str, cfg: ModelConfig, arrays: dict[str, np.ndarray]) -> dict:
    """The tensors of a family as parameters, layers stacked. Linear in them, so that it maps gradients too."""
    with tempfile.TemporaryDirectory() as folder:
        write_folder(folder, arrays.items(), max_shard_bytes=10**9)
        mapping = stacked(find(family).tensors(cfg))
        return load_tree(mapping, P.abstract(declarations(cfg)), open_folder(folder), ["*"])


def draw_texts(lengths: list[int], values: dict, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids, none of them padding's but at the end of the shorter rows; and their mask."""
    pad = values.get("pad_token_id", 0)
    known = [token for token in range(values["vocab_size"]) if token != pad]
    tokens = np.random.default_rng(seed).choice(known, (len(lengths), max(lengths)))
    mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
    return np.where(mask, tokens, pad), mask


def encoder_inputs(values: dict) -> dict[str, np.ndarray]:
    tokens, mask = draw_texts([4, 11, 7, 1], values, seed=1)
    kinds = values.get("type_vocab_size", 0)
    segments = np.sort(np.random.default_rng(2).integers(0, max(kinds, 1), tokens.shape), 1)
    return {"inputs": tokens, "mask": mask} | ({"segments": segments} if kinds else {})


def encoder_outputs(peer, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """By our names: logits, next_sentence, states and pooled, as there are."""
    import torch

    names = {"inputs": "input_ids", "mask": "attention_mask", "segments": "token_type_ids"}
    with torch.no_grad():
        out = peer(**{names[name]: torch.tensor(x.astype(int)) for name, x in inputs.items()})
    ours = {
        "logits": "logits", "prediction_logits": "logits", "seq_relationship_logits": "next_sentence",
        "last_hidden_state": "states", "pooler_output": "pooled",
    }  # fmt: skip
    return {ours[name]: x.numpy() for name, x in out.items() if x is not None}


def translator_inputs(values: dict) -> dict[str, np.ndarray]:
    source, source_mask = draw_texts([5, 11, 8], values, seed=3)
    target, target_mask = draw_texts([9, 2, 6], values, seed=4)
    return {"source": source, "source_mask": source_mask, "target": target, "target_mask": target_mask}


def translator_logits(peer, inputs: dict[str, np.ndarray]) -> np.ndarray:
    import torch

    names = {
        "source": "input_ids", "source_mask": "attention_mask", "target": "decoder_input_ids",
        "target_mask": "decoder_attention_mask",
    }  # fmt: skip
    with torch.no_grad():
        return peer(**{names[name]: torch.tensor(x.astype(int)) for name, x in inputs.items()}).logits.numpy()


def generate(peer, inputs: dict[str, np.ndarray], values: dict, **options) -> tuple[list[list[int]], np.ndarray]:
    """Targets without their start, up to and with the end; and the scores of a beam, or how far each greedy token
    was ahead of the next."""
    import torch

    pad, end = values["pad_token_id"], values["eos_token_id"]
    with torch.no_grad():
        out = peer.generate(
            torch.tensor(inputs["source"]), attention_mask=torch.tensor(inputs["source_mask"].astype(int)),
            do_sample=False, forced_eos_token_id=None, bad_words_ids=[[pad]], pad_token_id=pad,
            use_cache=False,  # which would have a decoder with no more layers than the encoder
            return_dict_in_generate=True, output_scores=True, **options,
        )  # fmt: skip
    rows = out.sequences[:, 1:].tolist()
    targets = [row[: row.index(end) + 1] if end in row else row for row in rows]
    if options.get("num_beams", 1) > 1:
        return targets, out.sequences_scores.numpy()
    best = torch.stack(out.scores, 1).topk(2).values
    margins = (best[..., 0] - best[..., 1]).numpy()
    return targets, np.array([margins[i, : len(row)].min() for i, row in enumerate(targets)])
