"""Beam search beside transformers' `generate`, on the same weights and sentences: seconds, BLEU, translations alike.

    python tests/benchmarks/translate.py RUN [--beam 4] [--batch 64] [--sentences N] [--rounds 2]

RUN: a run of configs/translate_multi30k.py, whose weights become a Pegasus, transformers' own pre-norm Transformer with
sinusoidal positions. Its whole validation part is translated, sorted by length for both. The floor is the matrix
products that no cached search can leave out, of all beams up to the end of the best, at the speed of one large product.
Needs the `parity` and `translation` extras.
"""

import argparse
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import torch
import transformers
from encoder_step import pegasus_config
from train_step import product_flops

import jaxgpt
from jaxgpt import data, seq2seq
from jaxgpt.embeddings import sinusoid
from jaxgpt.training.directory import read_config
from jaxgpt.translation import bleu, translate_tokens


def peer(model: jaxgpt.Model) -> transformers.PegasusForConditionalGeneration:
    """The same function in PyTorch."""
    cfg = model.config
    peer = transformers.PegasusForConditionalGeneration(pegasus_config(cfg)).eval()
    theirs = dict(peer.named_parameters()) | dict(peer.named_buffers())
    table = torch.tensor(np.asarray(sinusoid(jnp.arange(cfg.context_length)[None], cfg.d_model)[0]))

    def put(name, array):
        assert theirs[name].shape == array.shape, (name, theirs[name].shape, array.shape)
        theirs[name].data = torch.tensor(np.asarray(array).copy())

    def linear(name, params, inputs):
        put(f"{name}.weight", np.asarray(params["kernel"]).reshape(inputs, -1).T)
        put(f"{name}.bias", np.asarray(params["bias"]).reshape(-1))

    def norm(name, params):
        put(f"{name}.weight", params["scale"])
        put(f"{name}.bias", params["bias"])

    put("model.shared.weight", model.params["embedding"]["token"])
    for side in ("encoder", "decoder"):
        stack = model.params[side]
        put(f"model.{side}.embed_positions.weight", table)
        norm(f"model.{side}.layer_norm", stack["final_norm"])
        kinds = {
            "attention": ("self_attn", "self_attn_layer_norm"),
            "cross": ("encoder_attn", "encoder_attn_layer_norm"),
        }
        for i in range(cfg.encoder_layers if side == "encoder" else cfg.n_layers):
            at = f"model.{side}.layers.{i}"
            layer = stack["layers"][i]
            for ours, (name, norm_name) in kinds.items():
                if ours in layer:
                    norm(f"{at}.{norm_name}", layer[f"{ours}_norm"])
                    for mine, part in (("query", "q"), ("key", "k"), ("value", "v"), ("output", "out")):
                        linear(f"{at}.{name}.{part}_proj", layer[ours][mine], cfg.d_model)
            norm(f"{at}.final_layer_norm", layer["mlp_norm"])
            linear(f"{at}.fc1", layer["mlp"]["up"], cfg.d_model)
            linear(f"{at}.fc2", layer["mlp"]["down"], cfg.ff_width)
    peer.tie_weights()
    return peer


def least_flops(cfg, sources, targets, beam) -> int:
    """The matrix products that any cached search makes: a source token's once, a target token's for each beam."""
    width, mlp = cfg.d_model, 2 * cfg.d_model * cfg.ff_width
    source = cfg.encoder_layers * (4 * width**2 + mlp) + cfg.n_layers * 2 * width**2
    target = cfg.n_layers * (6 * width**2 + mlp) + width * cfg.vocab_size
    return 2 * (source * sum(map(len, sources)) + target * beam * sum(map(len, targets)))


def theirs(model, sources, end, beam, batch, alpha):
    order, out = sorted(range(len(sources)), key=lambda i: len(sources[i])), [[] for _ in sources]
    for at in range(0, len(order), batch):
        rows = order[at : at + batch]
        width = max(len(sources[i]) for i in rows)
        tokens = torch.full((len(rows), width), end)
        mask = torch.zeros(len(rows), width, dtype=torch.long)
        for row, i in enumerate(rows):
            tokens[row, : len(sources[i])] = torch.tensor(sources[i])
            mask[row, : len(sources[i])] = 1
        with torch.no_grad():
            found = model.generate(
                tokens, attention_mask=mask, num_beams=beam, max_new_tokens=2 * width + 10, do_sample=False,
                length_penalty=alpha, early_stopping=False, decoder_start_token_id=end, eos_token_id=end,
                pad_token_id=end, bos_token_id=end, forced_eos_token_id=None,
            )  # fmt: skip
        for i, row in zip(rows, found[:, 1:].tolist(), strict=True):
            out[i] = row[: row.index(end)] if end in row else row
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--beam", type=int, default=4)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--sentences", type=int)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()

    model = jaxgpt.load(args.run)
    dataset = data.prepare_pairs(read_config(Path(args.run)).data, Path(args.run) / "data")
    end, part = dataset.tokenizer.end_of_text, dataset.validation
    count = len(part) if args.sentences is None else args.sentences
    sources = [part.source[i].tolist() for i in range(count)]
    references = [dataset.tokenizer.decode(part.target[i][:-1]) for i in range(count)]
    torch_model = peer(model)

    tokens, inputs = jnp.array([sources[0]]), jnp.array([[end, *part.target[0][:-1].tolist()]])
    ours = seq2seq.apply(model.params, tokens, inputs, model.config)
    with torch.no_grad():
        wanted = torch_model(torch.tensor([sources[0]]), decoder_input_ids=torch.tensor(inputs.tolist())).logits
    print(f"largest logit difference on one pair: {np.abs(np.asarray(ours) - wanted.numpy()).max():.1e}")

    runs = {
        "jaxgpt": lambda: translate_tokens(
            model.inference_params,
            sources,
            model.inference_config,
            start=end,
            end=end,
            beam=args.beam,
            batch_size=args.batch,
        ),
        "transformers": lambda: theirs(torch_model, sources, end, args.beam, args.batch, 0.6),
    }
    texts, tokens_of, seconds = {}, {}, {name: [] for name in runs}
    runs["jaxgpt"]()  # compiles
    for _ in range(args.rounds):
        for name, run in runs.items():
            begun = time.perf_counter()
            found = run()
            seconds[name].append(time.perf_counter() - begun)
            tokens_of[name] = found
            texts[name] = [dataset.tokenizer.decode(t for t in row if t != end) for row in found]
    for name in runs:
        score, signature = bleu(texts[name], references)
        print(f"{name:12} {min(seconds[name]):7.1f} s (median {np.median(seconds[name]):.1f})  BLEU {score:.2f}")
    floor = least_flops(model.config, sources, tokens_of["jaxgpt"], args.beam) / product_flops()
    print(f"floor {floor:.1f} s, of which achieved {floor / np.median(seconds['jaxgpt']):.0%}")
    same = np.mean([a == b for a, b in zip(*texts.values(), strict=True)])
    print(f"transformers/jaxgpt {np.median(seconds['transformers']) / np.median(seconds['jaxgpt']):.2f}; {signature}")
    print(f"{same:.1%} of the translations are the same (penalties: length^0.6; (5 + length) / 6)")


if __name__ == "__main__":
    main()
