from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file
from tiers import few
from tiny import SCHEMES, TINY, apply, draw, draw_tokens, loss, loss_and_grads

from jaxgpt import config, gpt
from jaxgpt.attention import KVCache

GOLDEN = Path(__file__).parent / "golden"
ONE = replace(TINY, n_layers=1)


def openai_params(weights: dict, cfg, token: str, position: str) -> dict:
    """Hugging Face's names of GPT-1 and GPT-2; linear in the weights, so that it maps gradients too."""
    heads = (cfg.n_heads, cfg.head_width)

    def stacked(name, shape=None, part=slice(None)):
        layers = [weights[f"transformer.h.{i}.{name}"][..., part] for i in range(cfg.n_layers)]
        return np.stack([x if shape is None else x.reshape(shape) for x in layers])

    def linear(name, shape=None):
        return {"kernel": stacked(f"{name}.weight", shape), "bias": stacked(f"{name}.bias")}

    def norm(name):
        return {"scale": stacked(f"{name}.weight"), "bias": stacked(f"{name}.bias")}

    def third(i):  # query, key and value are columns of one matrix
        part = slice(i * cfg.d_model, (i + 1) * cfg.d_model)
        kernel = stacked("attn.c_attn.weight", (cfg.d_model, *heads), part)
        return {"kernel": kernel, "bias": stacked("attn.c_attn.bias", heads, part)}

    params = {
        "embedding": {
            "token": weights[f"transformer.{token}.weight"],
            "position": weights[f"transformer.{position}.weight"],
        },
        "layers": {
            "attention_norm": norm("ln_1"),
            "attention": {
                "query": third(0),
                "key": third(1),
                "value": third(2),
                "output": linear("attn.c_proj", (*heads, cfg.d_model)),
            },
            "mlp_norm": norm("ln_2"),
            "mlp": {"up": linear("mlp.c_fc"), "down": linear("mlp.c_proj")},
        },
    }
    if cfg.norm_position == "pre":
        names = {"scale": "transformer.ln_f.weight", "bias": "transformer.ln_f.bias"}
        params["final_norm"] = {leaf: weights[name] for leaf, name in names.items()}
    return params


def llama_params(weights: dict, cfg) -> dict:
    """Hugging Face's names of Llama, whose matrices are stored (outputs, inputs)."""

    def linear(name, *shape):
        layers = [weights[f"model.layers.{i}.{name}.weight"].T for i in range(cfg.n_layers)]
        return {"kernel": np.stack([x.reshape(shape or x.shape) for x in layers])}

    def norm(name):
        return {"scale": np.stack([weights[f"model.layers.{i}.{name}.weight"] for i in range(cfg.n_layers)])}

    width, heads, kv_heads = cfg.d_model, (cfg.n_heads, cfg.head_width), (cfg.kv_heads, cfg.head_width)
    params = {
        "embedding": {"token": weights["model.embed_tokens.weight"]},
        "layers": {
            "attention_norm": norm("input_layernorm"),
            "attention": {
                "query": linear("self_attn.q_proj", width, *heads),
                "key": linear("self_attn.k_proj", width, *kv_heads),
                "value": linear("self_attn.v_proj", width, *kv_heads),
                "output": linear("self_attn.o_proj", *heads, width),
            },
            "mlp_norm": norm("post_attention_layernorm"),
            "mlp": {"up": linear("mlp.up_proj"), "gate": linear("mlp.gate_proj"), "down": linear("mlp.down_proj")},
        },
        "final_norm": {"scale": weights["model.norm.weight"]},
    }
    if not cfg.tie_embeddings:
        params["head"] = {"kernel": weights["lm_head.weight"].T}
    return params


# What tests/golden/make.py built: a preset at another size, and the names of its weights.
FAMILIES = {
    "gpt1": (
        replace(config.gpt1(), vocab_size=37, context_length=11, d_model=12, n_layers=2, n_heads=3),
        lambda weights, cfg: openai_params(weights, cfg, "tokens_embed", "positions_embed"),
    ),
    "gpt2": (
        replace(config.gpt2(), vocab_size=47, context_length=19, d_model=15, n_layers=3, n_heads=3),
        lambda weights, cfg: openai_params(weights, cfg, "wte", "wpe"),
    ),
    "llama": (
        replace(
            config.llama(),
            vocab_size=41,
            context_length=17,
            d_model=18,
            n_layers=2,
            n_heads=6,
            n_kv_heads=2,
            head_dim=4,
            d_ff=23,
            rope_theta=12345.0,
            norm_epsilon=1e-6,
        ),
        llama_params,
    ),
}


CLASSIFIER = replace(TINY, n_layers=1, head="sequence", n_classes=5)
LENGTHS = np.array([7, 1, 4])
hidden = jax.jit(gpt.hidden, static_argnums=2)
classify = jax.jit(gpt.classify, static_argnums=2)


def relative_error(found, wanted) -> float:
    return float(np.abs(np.asarray(found, np.float64) - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_loss_and_gradients_are_transformers_own(family, record_property):
    cfg, convert = FAMILIES[family]
    golden = np.load(GOLDEN / f"{family}.npz", allow_pickle=False)

    def tree(kind):
        return convert(
            {name.removeprefix(kind): golden[name].astype("float32") for name in golden if kind in name}, cfg
        )

    params = jax.tree.map(jnp.asarray, tree("param/"))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(lambda p: p.shape, gpt.declare(cfg))
    batch = {"inputs": jnp.array(golden["inputs"]), "targets": jnp.array(golden["targets"])}
    errors = {"logits": relative_error(apply(params, batch["inputs"], cfg), golden["logits"])}
    (found, _), grads = loss_and_grads(params, batch, cfg)
    errors["loss"] = relative_error(found, golden["loss"])
    # A key's bias moves all of a query's scores alike: its gradient is 0 but for rounding, and has no relative error.
    wanted = tree("grad/")
    for tree_ in (grads, wanted):
        bias = tree_["layers"]["attention"]["key"].pop("bias", np.zeros(1))
        assert np.abs(bias).max() < 1e-6
    found, wanted = jax.tree.leaves_with_path(grads), jax.tree.leaves_with_path(wanted)
    errors |= {
        jax.tree_util.keystr(a): relative_error(x, y) for (a, x), (b, y) in zip(found, wanted, strict=True) if a == b
    }
    assert len(errors) == len(found) + 2
    record_property("largest error", max(errors.values()))
    assert max(errors.values()) < 1e-5, errors


def test_a_real_checkpoint_gives_transformers_logits_and_its_greedy_text(shared_data):
    weights = load_file(shared_data / "stories260K" / "model.safetensors")
    golden = np.load(GOLDEN / "stories260K.npz", allow_pickle=False)
    base = replace(config.llama(), vocab_size=512, context_length=512, d_model=64, n_layers=5, tie_embeddings=True)
    cfg = replace(base, n_heads=8, n_kv_heads=4, d_ff=172)
    params = jax.tree.map(jnp.asarray, llama_params(weights, cfg))
    text = jnp.array(golden["greedy"])
    logits = apply(params, text, cfg)
    assert relative_error(logits[:, :9], golden["logits"]) < 1e-5
    start = golden["prompt"].shape[1]
    np.testing.assert_array_equal(logits[:, start - 1 : -1].argmax(-1), text[:, start:])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_logit_has_no_gradient_from_a_later_token(scheme):
    cfg = replace(SCHEMES[scheme], n_layers=1, tie_embeddings=False, vocab_size=7)
    params, tokens = draw(gpt.declare(cfg)), jnp.arange(7)[None]  # each id once: its row's gradient is its place's

    def reach(params, t):
        return gpt.apply(params, tokens, cfg)[0, t].sum()

    slopes = jax.jit(jax.vmap(lambda t: jax.grad(reach)(params, t)["embedding"]["token"]))(jnp.arange(7))
    np.testing.assert_array_equal((slopes != 0).any(-1), np.tri(7, dtype=bool))


def test_the_loss_is_the_mean_of_minus_log_softmax():
    params = draw(gpt.declare(ONE))
    batch = {"inputs": draw_tokens(TINY, 3, 5), "targets": draw_tokens(TINY, 3, 5, seed=2)}
    logits = np.asarray(apply(params, batch["inputs"], ONE), np.float64)
    right = np.take_along_axis(logits, np.asarray(batch["targets"])[..., None], -1)[..., 0]
    nats = np.log(np.exp(logits).sum(-1)) - right
    nats_a_token, aux = loss(params, batch, ONE)
    assert float(nats_a_token) == pytest.approx(nats.mean(), rel=1e-6)
    assert aux["weight"] == 15
    assert float(aux["nats"]) == pytest.approx(nats.sum(), rel=1e-6)
    assert aux["correct"] == (logits.argmax(-1) == np.asarray(batch["targets"])).sum()
    weights = np.random.default_rng(0).uniform(0, 2, (3, 5))
    nats_a_token, aux = loss(params, batch | {"weights": jnp.array(weights, "float32")}, ONE)
    assert float(nats_a_token) == pytest.approx((nats * weights).sum() / weights.sum(), rel=1e-5)
    assert float(aux["weight"]) == pytest.approx(weights.sum(), rel=1e-6)


def test_an_untrained_head_of_zeros_costs_the_log_of_the_vocabulary():
    cfg = replace(ONE, tie_embeddings=False)
    params = draw(gpt.declare(cfg))
    params["head"] = jax.tree.map(jnp.zeros_like, params["head"])
    batch = {"inputs": draw_tokens(cfg, 2, 5), "targets": draw_tokens(cfg, 2, 5, seed=2)}
    assert float(loss(params, batch, cfg)[0]) == pytest.approx(np.log(23), rel=1e-6)


def test_a_weight_of_zero_leaves_a_target_out():
    params = draw(gpt.declare(ONE))
    batch = {"inputs": draw_tokens(TINY, 3, 7), "targets": draw_tokens(TINY, 3, 7, seed=2)}
    weights = jnp.ones((3, 7)).at[2].set(0).at[:, 5:].set(0)
    (found, aux), grads = loss_and_grads(params, batch | {"weights": weights}, ONE)
    short = {name: x[:2, :5] for name, x in batch.items()}
    (wanted, _), wanted_grads = loss_and_grads(params, short, ONE)
    assert float(found) == pytest.approx(float(wanted), rel=1e-5)
    assert aux["weight"] == 10
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), grads, wanted_grads)

    (found, aux), grads = loss_and_grads(params, batch | {"weights": jnp.zeros((3, 7))}, ONE)
    assert (found, aux["weight"]) == (0, 0)
    assert all((g == 0).all() for g in jax.tree.leaves(grads))


def test_the_loss_of_packed_texts_is_that_of_the_texts():
    cfg = replace(SCHEMES["rotary"], n_layers=1)
    params = draw(gpt.declare(cfg))
    first, second = ({n: draw_tokens(cfg, 1, t, t + i) for i, n in enumerate(("inputs", "targets"))} for t in (4, 9))
    packed = {name: jnp.concatenate([first[name], second[name], jnp.zeros((1, 2), int)], 1) for name in first}
    packed["segments"] = jnp.array([[1] * 4 + [2] * 9 + [0] * 2])
    packed["weights"] = (packed["segments"] > 0).astype("float32")
    losses = [float(loss(params, text, cfg)[0]) for text in (first, second)]
    assert float(loss(params, packed, cfg)[0]) == pytest.approx((4 * losses[0] + 9 * losses[1]) / 13, rel=1e-5)


def test_padding_weighs_nothing_unless_weights_are_given():
    params = draw(gpt.declare(ONE))
    batch = {"inputs": draw_tokens(ONE, 2, 7), "targets": draw_tokens(ONE, 2, 7, seed=2)}
    batch["segments"] = jnp.array([[1, 1, 2, 2, 2, 0, 0], [1] * 7])
    found, aux = loss(params, batch, ONE)
    wanted, _ = loss(params, batch | {"weights": (batch["segments"] > 0).astype("float32")}, ONE)
    assert aux["weight"] == 12
    assert float(found) == float(wanted)
    assert loss(params, batch | {"weights": jnp.ones((2, 7))}, ONE)[1]["weight"] == 14


def test_a_name_that_the_loss_does_not_know_is_refused():
    batch = {"inputs": draw_tokens(ONE, 2, 5), "targets": draw_tokens(ONE, 2, 5), "weight": jnp.ones((2, 5))}
    with pytest.raises(ValueError, match=r"batch: found 'weight', expected one of .* \(nearest: weights\)"):
        gpt.loss(draw(gpt.declare(ONE)), batch, ONE)


@pytest.mark.parametrize("token", [-1, 23, 2**31 - 1])
def test_an_id_outside_the_vocabulary_is_refused_where_it_can_be_seen(token):
    params, good = draw(gpt.declare(ONE)), draw_tokens(ONE, 2, 5)
    bad = good.at[1, 3].set(token)
    expected = rf": found the id {token}, expected 0\.\.22\b"
    with pytest.raises(ValueError, match="^tokens" + expected):
        gpt.apply(params, bad, ONE)
    with pytest.raises(ValueError, match="^tokens" + expected):
        gpt.loss(params, {"inputs": bad, "targets": good}, ONE)
    with pytest.raises(ValueError, match="^targets" + expected):
        jax.grad(lambda params: gpt.loss(params, {"inputs": good, "targets": bad}, ONE)[0])(params)
    nearest = good.at[1, 3].set(min(max(token, 0), 22))
    np.testing.assert_array_equal(apply(params, bad, ONE), apply(params, nearest, ONE))  # compiled: nothing looks


def test_the_loss_drops_activations_on_a_key():
    cfg = replace(ONE, dropout=0.2)
    params = draw(gpt.declare(cfg))
    batch = {name: draw_tokens(cfg, 2, 5) for name in ("inputs", "targets")}
    first, again, other, none = (
        loss(params, batch, cfg, key=key)[0] for key in (jax.random.key(0), jax.random.key(0), jax.random.key(1), None)
    )
    assert first == again
    assert len({float(first), float(other), float(none)}) == 3


def test_more_tokens_than_there_is_room_for_are_refused():
    params = draw(gpt.declare(TINY))
    with pytest.raises(ValueError, match="tokens: found 20 in a row, expected at most 19"):
        gpt.apply(params, draw_tokens(TINY, 1, 20), TINY)
    with pytest.raises(ValueError, match="tokens: found 5 in a row, expected at most 4"):
        gpt.apply(params, draw_tokens(TINY, 1, 5), TINY, cache=KVCache.empty(TINY, 1, slots=4))


@pytest.mark.parametrize("tied", [True, False])
def test_low_precision_logits_and_gradients_are_float32(tied):
    cfg = replace(TINY, dtype="bfloat16", tie_embeddings=tied, n_layers=1)
    params = draw(gpt.declare(cfg))
    batch = {"inputs": draw_tokens(cfg, 2, 5), "targets": draw_tokens(cfg, 2, 5, seed=2)}
    logits, wanted = (apply(params, batch["inputs"], replace(cfg, dtype=d)) for d in ("bfloat16", "float32"))
    assert logits.dtype == "float32"
    assert relative_error(logits, np.asarray(wanted)) < 2e-2
    assert (logits != logits.astype("bfloat16")).mean() > 0.9  # not rounded on the way
    grads = loss_and_grads(params, batch, cfg)[1]
    assert {g.dtype for g in jax.tree.leaves(grads)} == {jnp.dtype("float32")}


def test_head_and_hidden_are_the_two_halves_of_apply():
    params, tokens = draw(gpt.declare(ONE)), draw_tokens(ONE, 2, 5)
    x, cache = hidden(params, tokens, ONE)
    assert cache is None
    np.testing.assert_allclose(gpt.head(params, x, ONE), apply(params, tokens, ONE), atol=1e-5)


def classified(cfg=CLASSIFIER):
    """Parameters, texts of LENGTHS with their classes, and each one's logits by the formula, without padding."""
    params, tokens = draw(gpt.declare(cfg)), draw_tokens(cfg, 3, 7)
    texts = [tokens[[i], :n] for i, n in enumerate(LENGTHS)]
    states = np.stack([hidden(params, text, cfg)[0][0, -1] for text in texts]).astype(np.float64)
    batch = {"inputs": tokens, "labels": jnp.array([3, 0, 4]), "mask": jnp.arange(7) < LENGTHS[:, None]}
    return params, batch, states @ np.asarray(params["classifier"]["kernel"], np.float64)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_text_has_the_class_of_its_last_state_wherever_its_padding_is(scheme):
    cfg = replace(SCHEMES[scheme], n_layers=1, head="sequence", n_classes=5)
    params, batch, wanted = classified(cfg)
    right = batch["mask"]
    rolled = jnp.stack([jnp.roll(row, 7 - n) for row, n in zip(batch["inputs"], LENGTHS, strict=True)])
    for tokens, mask in ((batch["inputs"], right), (rolled, right[:, ::-1])):
        others = jnp.where(mask, tokens, draw_tokens(cfg, 3, 7, seed=9))
        found = classify(params, tokens, cfg, mask=mask)
        assert found.dtype == "float32"
        np.testing.assert_allclose(found, wanted, atol=1e-4)
        np.testing.assert_array_equal(found, classify(params, others, cfg, mask=mask))
    np.testing.assert_allclose(classify(params, batch["inputs"][:1], cfg), wanted[:1], atol=1e-4)


@pytest.mark.parametrize("scheme", few(SCHEMES, 2))
def test_packed_texts_have_the_classes_and_the_gradient_of_each_alone(scheme):
    cfg = replace(SCHEMES[scheme], n_layers=1, context_length=12, head="sequence", n_classes=5)
    params, batch, wanted = classified(cfg)
    one, two, three = (batch["inputs"][i, :n].tolist() for i, n in enumerate(LENGTHS))
    packed = {
        "inputs": jnp.array([[*two, *one, 0, 0, 0, 0], [*three, *[0] * 8]]),
        "texts": jnp.array([[1] + [2] * 7 + [0] * 4, [1] * 4 + [0] * 8]),
        "positions": jnp.array([[0, 7], [3, 0]]),
        "labels": jnp.array([[0, 3], [4, 0]]),
        "weights": jnp.array([[2.0, 0.5], [1.5, 0.0]]),
    }
    found = classify(params, packed["inputs"], cfg, texts=packed["texts"], positions=packed["positions"])
    assert found.shape == (2, 2, 5)
    np.testing.assert_allclose([found[0, 1], found[0, 0], found[1, 0]], wanted, atol=1e-4)
    batch["weights"] = jnp.array([0.5, 2.0, 1.5])
    (nats, sums), grads = loss_and_grads(params, packed, cfg)
    (alone, wanted_sums), wanted = loss_and_grads(params, batch, cfg)
    assert float(nats) == pytest.approx(float(alone), rel=1e-5)
    np.testing.assert_allclose(sums["confusion"], wanted_sums["confusion"])
    close = partial(np.testing.assert_allclose, atol=1e-5)
    jax.tree.map(close, grads, wanted)


def test_a_classifier_has_a_matrix_in_place_of_a_head():
    cfg = replace(CLASSIFIER, tie_embeddings=False)
    lm, own = gpt.declare(replace(cfg, head="lm", n_classes=None)), gpt.declare(cfg)
    assert lm.keys() - own.keys() == {"head"}
    assert own.keys() - lm.keys() == {"classifier"}
    assert jax.tree.map(lambda p: p.shape, own["classifier"]) == {"kernel": (14, 5)}


def test_the_loss_of_classes_is_that_of_their_logits():
    params, batch, logits = classified()
    weights = np.array([0.5, 2.0, 1.5])
    nats = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, np.array([[3], [0], [4]]), 1)[:, 0]
    taken = logits.argmax(-1)
    for given in (np.ones(3), weights):
        found, sums = loss(params, batch if given is not weights else batch | {"weights": jnp.array(given)}, CLASSIFIER)
        assert sums.keys() == {"weight", "nats", "correct", "confusion"}
        assert float(found) == pytest.approx((nats * given).sum() / given.sum(), rel=1e-5)
        assert float(sums["nats"]) == pytest.approx((nats * given).sum(), rel=1e-5)
        confusion = np.zeros((5, 5))
        np.add.at(confusion, ([3, 0, 4], taken), given)
        np.testing.assert_allclose(sums["confusion"], confusion, rtol=1e-6)
    smooth = replace(CLASSIFIER, label_smoothing=0.2)
    spread = np.log(np.exp(logits).sum(-1)) - logits.mean(-1)
    assert float(loss(params, batch, smooth)[0]) == pytest.approx((0.8 * nats + 0.2 * spread).mean(), rel=1e-5)


def test_a_classifier_learns_from_no_token_after_the_last():
    params, batch, _ = classified(replace(CLASSIFIER, vocab_size=30))
    cfg = replace(CLASSIFIER, vocab_size=30)
    batch["inputs"] = jnp.arange(21).reshape(3, 7)  # each id once: its row's gradient is its place's
    _, grads = loss_and_grads(params, batch, cfg)
    np.testing.assert_array_equal((grads["embedding"]["token"][:21] != 0).any(-1), batch["mask"].ravel())


def test_what_a_classifier_is_not_is_refused():
    params, batch, _ = classified()
    with pytest.raises(ValueError, match=r"model\.head: found 'sequence', expected lm, to give tokens"):
        gpt.apply(params, batch["inputs"], CLASSIFIER)
    with pytest.raises(ValueError, match=r"model\.head: found 'lm', expected sequence, to classify"):
        gpt.classify(draw(gpt.declare(ONE)), batch["inputs"], ONE)
    for name in ("segments", "targets"):
        with pytest.raises(ValueError, match=rf"batch: found '{name}', expected one of inputs, labels, weights, mask"):
            gpt.loss(params, batch | {name: batch["inputs"]}, CLASSIFIER)
    with pytest.raises(ValueError, match=r"texts, positions: found 'one of them', expected both or neither"):
        gpt.classify(params, batch["inputs"], CLASSIFIER, texts=jnp.ones((3, 7), int))
    packed = {"texts": jnp.ones((3, 7), int), "positions": jnp.zeros((3, 1), int)}
    with pytest.raises(ValueError, match=r"texts: found 'a mask too', expected texts alone \(0 marks padding\)"):
        gpt.classify(params, batch["inputs"], CLASSIFIER, mask=batch["mask"], **packed)
    with pytest.raises(ValueError, match=r"labels: found the id 5, expected 0\.\.4"):
        gpt.loss(params, batch | {"labels": jnp.array([0, 5, 1])}, CLASSIFIER)
