"""Make the golden files of encoders and encoder-decoders beside this script: python tests/golden/make_encoder.py.

Needs torch and transformers 5. As in make.py: what the other implementation computes in float64 from parameters that
are all drawn at random, each from a seed of its path, and rounded to float16. Rows are padded at the right to
different lengths, one of them to its own; `mask` is True at real tokens. The files together are under 260 KB.
"""

import itertools
import zlib
from pathlib import Path

import numpy as np
import torch
import transformers
from torch import nn

HERE = Path(__file__).resolve().parent
LEFT_OUT = -100  # a label that torch's cross-entropy leaves out of its mean


def drawn(module: nn.Module) -> nn.Module:
    """The module in float64, every parameter that is learned drawn anew: gains about 1, all else about 0."""
    module = module.eval().double()
    for path, parameter in module.named_parameters():
        if parameter.requires_grad:
            rng = np.random.default_rng(zlib.crc32(path.encode()))
            gain = parameter.ndim == 1 and path.endswith("weight")
            values = rng.normal(1.0 if gain else 0.0, 0.2, parameter.shape).astype(np.float16)
            parameter.data = torch.tensor(values.astype(np.float64))
    return module


def padded(lengths: list[int], vocab_size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random ids and their mask; what stands at padding is random too, and must not matter."""
    time = max(lengths)
    tokens = np.random.default_rng(seed).integers(0, vocab_size, (len(lengths), time))
    return tokens, np.arange(time) < np.array(lengths)[:, None]


def save(name: str, module: nn.Module, loss: torch.Tensor, gradients: bool = True, **arrays) -> None:
    """Arrays by name, the loss, each parameter and, if asked, its gradient."""
    loss.backward()
    out = {
        key: x.detach().numpy().astype(np.float32) if isinstance(x, torch.Tensor) else x for key, x in arrays.items()
    }
    out["loss"] = np.float64(loss.item())
    for path, parameter in module.named_parameters():
        if parameter.requires_grad:
            out[f"param/{path}"] = parameter.detach().numpy().astype(np.float16)
            if gradients:
                out[f"grad/{path}"] = parameter.grad.numpy().astype(np.float32)
    np.savez_compressed(HERE / name, **out)


def bert_config(vocab: int, width: int, layers: int, heads: int, mlp: int, places: int, **more: int):
    return transformers.BertConfig(
        vocab_size=vocab,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=mlp,
        max_position_embeddings=places,
        type_vocab_size=3,
        hidden_act="gelu",
        layer_norm_eps=1e-12,
        pad_token_id=None,  # torch gives the row of padding no gradient as an input
        attn_implementation="eager",
        **more,
    )


def bert_inputs(lengths: list[int], vocab_size: int) -> tuple[dict[str, torch.Tensor], dict[str, np.ndarray]]:
    """What a BERT reads, for torch and for the file: segments rise along a row, from 0 to at most 2."""
    tokens, mask = padded(lengths, vocab_size, seed=0)
    segments = np.sort(np.random.default_rng(1).integers(0, 3, tokens.shape), axis=1)
    names = {"input_ids": tokens, "attention_mask": mask.astype(int), "token_type_ids": segments}
    return {k: torch.tensor(x) for k, x in names.items()}, {"inputs": tokens, "mask": mask, "segments": segments}


def masked_labels(places: list[list[int]], time: int, vocab_size: int) -> np.ndarray:
    """Targets at some places of each row, LEFT_OUT elsewhere."""
    labels = np.full((len(places), time), LEFT_OUT)
    for row, columns in enumerate(places):
        labels[row, columns] = np.random.default_rng(row + 2).integers(0, vocab_size, len(columns))
    return labels


def bert_mlm() -> None:
    model = drawn(transformers.BertForMaskedLM(bert_config(37, 12, 2, 3, 21, 13)))
    inputs, arrays = bert_inputs([4, 11, 7, 1], 37)
    labels = masked_labels([[2], [0, 5, 10], [3, 6], [0]], 11, 37)
    out = model(**inputs, labels=torch.tensor(labels))
    save("bert_mlm.npz", model, out.loss, **arrays, labels=labels, logits=out.logits)


def bert_pretraining() -> None:
    model = drawn(transformers.BertForPreTraining(bert_config(29, 10, 1, 2, 17, 9)))
    inputs, arrays = bert_inputs([6, 3, 8], 29)
    labels, following = masked_labels([[1, 4], [2], [0, 7]], 8, 29), np.array([0, 1, 1])
    out = model(**inputs, labels=torch.tensor(labels), next_sentence_label=torch.tensor(following))
    arrays |= {"labels": labels, "next_sentence": following}
    logits = {"logits": out.prediction_logits, "next_sentence_logits": out.seq_relationship_logits}
    save("bert_pretraining.npz", model, out.loss, gradients=False, **arrays, **logits)


def bert_sequence() -> None:
    model = drawn(transformers.BertForSequenceClassification(bert_config(23, 10, 1, 5, 14, 9, num_labels=3)))
    inputs, arrays = bert_inputs([7, 2, 6, 4], 23)
    labels = np.array([2, 0, 1, 2])
    out = model(**inputs, labels=torch.tensor(labels))
    save("bert_sequence.npz", model, out.loss, **arrays, labels=labels, logits=out.logits)


def bert_token() -> None:
    model = drawn(transformers.BertForTokenClassification(bert_config(23, 10, 1, 5, 14, 9, num_labels=4)))
    inputs, arrays = bert_inputs([7, 2, 6], 23)
    labels = np.where(arrays["mask"], np.random.default_rng(5).integers(0, 4, (3, 7)), LEFT_OUT)
    out = model(**inputs, labels=torch.tensor(labels))
    save("bert_token.npz", model, out.loss, gradients=False, **arrays, labels=labels, logits=out.logits)


def pairs(name: str, model: nn.Module, sources: list[int], targets: list[int], vocab_size: int, padding: int) -> None:
    """A translation batch: logits, the mean cross-entropy of the real targets, the same smoothed by 0.1, gradients."""
    source, source_mask = padded(sources, vocab_size, seed=0)
    text, _ = padded([n + 1 for n in targets], vocab_size, seed=1)
    target_mask = np.arange(max(targets)) < np.array(targets)[:, None]
    # torch gives the row of `padding` no gradient as an input, so real tokens have other ids.
    source, text = (np.where(x == padding, padding - 1, x) for x in (source, text))
    source[~source_mask], inputs = padding, np.where(target_mask, text[:, :-1], padding)
    labels = np.where(target_mask, text[:, 1:], LEFT_OUT)
    out = model(
        input_ids=torch.tensor(source),
        attention_mask=torch.tensor(source_mask.astype(int)),
        decoder_input_ids=torch.tensor(inputs),
        decoder_attention_mask=torch.tensor(target_mask.astype(int)),
        labels=torch.tensor(labels),
    )
    flat = out.logits.flatten(0, 1), torch.tensor(labels).flatten()
    smoothed = nn.functional.cross_entropy(*flat, label_smoothing=0.1).item()
    arrays = {"source": source, "source_mask": source_mask, "inputs": inputs, "targets": text[:, 1:]}
    arrays |= {"target_mask": target_mask, "smoothed_loss": np.float64(smoothed)}
    save(name, model, out.loss, **arrays, logits=out.logits)


def interleaved_sinusoids(rows: int, width: int) -> np.ndarray:
    """Vaswani et al. 2017, section 3.5: sines in the even columns, cosines in the odd ones."""
    angles = np.arange(rows)[:, None] / 10000 ** (np.arange(0, width, 2) / width)
    return np.stack([np.sin(angles), np.cos(angles)], -1).reshape(rows, width)


def marian() -> None:
    """The Transformer of 2017. Marian's own table has the sines first and then the cosines: the paper's replaces it."""
    config = transformers.MarianConfig(
        vocab_size=31,
        decoder_vocab_size=31,
        d_model=12,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=3,
        decoder_attention_heads=3,
        encoder_ffn_dim=19,
        decoder_ffn_dim=19,
        max_position_embeddings=13,
        activation_function="relu",
        scale_embedding=True,
        pad_token_id=30,
        eos_token_id=0,
        decoder_start_token_id=0,
        attn_implementation="eager",
    )
    model = drawn(transformers.MarianMTModel(config))
    assert not model.final_logits_bias.any()
    for side in (model.model.encoder, model.model.decoder):
        assert not side.embed_positions.weight.requires_grad
        side.embed_positions.weight.data = torch.tensor(interleaved_sinusoids(13, 12))
    pairs("marian.npz", model, [9, 5, 3], [4, 7, 6], 31, padding=30)


def t5() -> None:
    """T5: pre-norm by RMS, relative biases, a gate, no linear biases. Its scores are not divided by a root.

    transformers ties its head whatever is asked; tie_word_embeddings=False leaves its scaling out, as in T5 1.1.
    """
    config = transformers.T5Config(
        vocab_size=27,
        d_model=10,
        d_kv=3,
        d_ff=15,
        num_layers=2,
        num_decoder_layers=1,
        num_heads=4,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=11,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        pad_token_id=26,
        eos_token_id=0,
        decoder_start_token_id=0,
        attn_implementation="eager",
    )
    pairs("t5.npz", drawn(transformers.T5ForConditionalGeneration(config)), [6, 13, 8], [9, 5, 3], 27, padding=26)


def layers() -> None:
    """torch.nn's own attention and layers on one input: outputs, and gradients of sum(output * cotangent).

    The cotangent is 0 at padding, where implementations may differ.
    """
    rng = np.random.default_rng(0)
    lengths = {"x": [7, 4, 2], "memory": [3, 5, 1]}
    mask = {name: np.arange(max(n)) < np.array(n)[:, None] for name, n in lengths.items()}
    values = {name: rng.normal(size=(*m.shape, 12)).astype(np.float16) for name, m in mask.items()}
    cotangent = rng.normal(size=(3, 7, 12)).astype(np.float16) * mask["x"][..., None]
    out = {f"mask/{name}": x for name, x in mask.items()} | values | {"cotangent": cotangent}
    hidden = {name: torch.tensor(~x) for name, x in mask.items()}
    ahead = torch.ones(7, 7, dtype=torch.bool).triu(1)

    def run(name, module, **settings):
        x, memory = (torch.tensor(v.astype(np.float64), requires_grad=True) for v in values.values())
        y = module(x, memory, **settings)
        (y * torch.tensor(cotangent.astype(np.float64))).sum().backward()
        found = {"output": y, "grad/x": x.grad, "grad/memory": memory.grad}
        for kind, array in found.items():
            if array is not None:
                out[f"{name}/{kind}"] = array.detach().numpy().astype(np.float32)

    def keep(family, module):
        for path, parameter in module.named_parameters():
            out[f"{family}/param/{path}"] = parameter.detach().numpy().astype(np.float16)

    attention = drawn(nn.MultiheadAttention(12, 3, batch_first=True))
    keep("attention", attention)

    def on_itself(x, memory, **settings):
        return attention(x, x, x, need_weights=False, **settings)[0]

    def across(x, memory, **settings):
        return attention(x, memory, memory, need_weights=False, **settings)[0]

    run("attention/padded", on_itself, key_padding_mask=hidden["x"])
    run("attention/causal", on_itself, key_padding_mask=hidden["x"], attn_mask=ahead)
    run("attention/cross", across, key_padding_mask=hidden["memory"])

    for first, activation in itertools.product((True, False), ("relu", "gelu")):
        settings = {"norm_first": first, "activation": activation, "batch_first": True, "dropout": 0.0}
        kind = f"{'pre' if first else 'post'} {activation}"
        encoder = drawn(nn.TransformerEncoderLayer(12, 3, 17, **settings))
        keep("encoder", encoder)
        run(f"encoder/{kind}", lambda x, memory, e=encoder: e(x, src_key_padding_mask=hidden["x"]))
        decoder = drawn(nn.TransformerDecoderLayer(12, 3, 17, **settings))
        keep("decoder", decoder)
        masks = {"tgt_key_padding_mask": hidden["x"], "memory_key_padding_mask": hidden["memory"], "tgt_mask": ahead}
        run(f"decoder/{kind}", decoder, **masks)
    np.savez_compressed(HERE / "layers.npz", **out)


if __name__ == "__main__":
    makers = {f.__name__: f for f in (bert_mlm, bert_pretraining, bert_sequence, bert_token, marian, t5, layers)}
    for name, make in makers.items():
        make()
        print(f"{name}.npz: {(HERE / f'{name}.npz').stat().st_size:,} bytes")
