import functools
import re
from dataclasses import fields, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from peers import parameters
from tiers import few
from tiny import TINY, draw, draw_tokens

from jaxgpt import bert, config
from jaxgpt import params as P
from jaxgpt.config import ModelConfig, RopeScaling
from jaxgpt.embeddings import embed, embedding_params
from jaxgpt.sharding import MeshConfig, make_mesh, place

GOLDEN = Path(__file__).parent / "golden"
SMALL = replace(
    TINY, architecture="encoder", n_layers=1, norm_position="post", n_segments=3, embedding_norm=True, activation="gelu"
)
CONFIGS = {
    "lm": SMALL,
    "untied": replace(SMALL, tie_embeddings=False),
    "pretraining": replace(SMALL, head="pretraining"),
    "sequence": replace(SMALL, head="sequence", n_classes=5),
    "token": replace(SMALL, head="token", n_classes=5),
}
PRETRAINING = CONFIGS["pretraining"]
encode = jax.jit(bert.encode, static_argnums=2)
apply = jax.jit(bert.apply, static_argnums=2)
classify = jax.jit(bert.classify, static_argnums=2)
loss = jax.jit(bert.loss, static_argnums=2)
loss_and_grads = jax.jit(jax.value_and_grad(bert.loss, has_aux=True), static_argnums=2)


def drawn_batch(cfg: ModelConfig, rows: int = 4, time: int = 11) -> dict:
    """Padded rows with segments and what the config's head is trained on; the last masked place of a row weighs 0."""
    rng = np.random.default_rng(3)
    lengths = np.resize([time, 4, time - 2, 1], rows)
    batch = {
        "inputs": rng.integers(0, cfg.vocab_size, (rows, time)),
        "mask": np.arange(time) < lengths[:, None],
        "segments": np.sort(rng.integers(0, 3, (rows, time)), axis=1),
    }
    if cfg.n_segments == 0:
        del batch["segments"]
    if cfg.head in ("lm", "pretraining"):
        positions = rng.integers(0, lengths[:, None], (rows, 3))
        batch |= {"positions": positions, "targets": rng.integers(0, cfg.vocab_size, (rows, 3))}
        batch["weights"] = np.tile(np.float32([1, 1, 0]), (rows, 1))
    if cfg.head == "pretraining":
        batch["next_sentence"] = rng.integers(0, 2, rows)
    if cfg.head == "sequence":
        batch["labels"] = rng.integers(0, 5, rows)
    if cfg.head == "token":
        batch |= {"labels": rng.integers(0, 5, (rows, time)), "weights": batch["mask"].astype(np.float32)}
    return jax.tree.map(jnp.array, batch)


def masked_batch(labels: np.ndarray) -> dict:
    """Labels at every place, -100 where nothing is asked, as the places that are: filled up with places of weight 0."""
    rows = [np.flatnonzero(row != -100) for row in labels]
    count = max(len(row) for row in rows)
    positions = np.stack([np.pad(row, (0, count - len(row))) for row in rows])
    weights = np.arange(count) < np.array([[len(row)] for row in rows])
    targets = np.where(weights, np.take_along_axis(labels, positions, 1), 0)
    return {"positions": positions, "targets": targets, "weights": weights.astype("float32")}


def golden_tree(golden, kind, cfg):
    weights = {name.removeprefix(kind): golden[name].astype("float32") for name in golden if name.startswith(kind)}
    return parameters("bert", cfg, weights)


def relative_error(found, wanted) -> float:
    return float(np.abs(np.asarray(found, np.float64) - wanted).max() / np.abs(wanted).max())


# What tests/golden/make_encoder.py built: a preset at another size.
FAMILIES = {
    "bert_mlm": replace(
        config.bert(), vocab_size=37, context_length=13, d_model=12, n_layers=2, n_heads=3, d_ff=21, head="lm"
    ),
    "bert_pretraining": replace(
        config.bert(), vocab_size=29, context_length=9, d_model=10, n_layers=1, n_heads=2, d_ff=17
    ),
    "bert_sequence": replace(
        config.bert(), vocab_size=23, context_length=9, d_model=10, n_layers=1, n_heads=5, d_ff=14, head="sequence",
        n_classes=3,
    ),
    "bert_token": replace(
        config.bert(), vocab_size=23, context_length=9, d_model=10, n_layers=1, n_heads=5, d_ff=14, head="token",
        n_classes=4,
    ),
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_loss_and_gradients_are_transformers_own(family, record_property):
    cfg = replace(FAMILIES[family], n_segments=3)
    golden = np.load(GOLDEN / f"{family}.npz", allow_pickle=False)
    params, real = golden_tree(golden, "param/", cfg), golden["mask"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(lambda p: p.shape, bert.declare(cfg))
    inputs = {"mask": jnp.array(real), "segments": jnp.array(golden["segments"])}
    batch = {"inputs": jnp.array(golden["inputs"])} | inputs
    if cfg.head in ("lm", "pretraining"):
        batch |= jax.tree.map(jnp.array, masked_batch(golden["labels"]))
        logits = apply(params, batch["inputs"], cfg, **inputs)
    else:
        batch["labels"] = jnp.maximum(golden["labels"], 0)
        batch["weights"] = jnp.array(golden["labels"] >= 0, "float32")
        logits = classify(params, batch["inputs"], cfg, **inputs)
    if cfg.head == "sequence":
        real = slice(None)
    errors = {"logits": relative_error(logits[real], golden["logits"][real])}
    if cfg.head == "pretraining":
        batch["next_sentence"] = jnp.array(golden["next_sentence"])
        judged = bert.next_sentence(params, bert.pooled(params, encode(params, batch["inputs"], cfg, **inputs), cfg))
        errors["next sentence"] = relative_error(judged, golden["next_sentence_logits"])
    (found, _), grads = loss_and_grads(params, batch, cfg)
    errors["loss"] = relative_error(found, golden["loss"])
    if any(name.startswith("grad/") for name in golden):
        wanted = golden_tree(golden, "grad/", cfg)
        # A key's bias moves all of a query's scores alike: its gradient is 0 but for rounding.
        for tree in (grads, wanted):
            assert np.abs(tree["layers"]["attention"]["key"].pop("bias")).max() < 1e-6
        both = zip(jax.tree.leaves_with_path(grads), jax.tree.leaves_with_path(wanted), strict=True)
        gradients = {jax.tree_util.keystr(a): relative_error(x, y) for (a, x), (b, y) in both if a == b}
        assert len(gradients) == len(jax.tree.leaves(wanted))
        errors |= gradients
    record_property("largest error", max(errors.values()))
    assert max(errors.values()) < 1e-5, errors


@pytest.mark.parametrize(
    ("size", "pretraining"),
    [
        ("tiny", 4_433_468),
        ("mini", 11_267_900),
        ("small", 29_058_876),
        ("medium", 41_668_412),
        ("base", 110_106_428),
        ("large", 336_226_108),
    ],
)
def test_parameter_counts_are_the_published_ones(size, pretraining):
    """Of transformers' BertForPreTraining; Turc et al. 2019, table 1, has 4.4M, 11.3M, 29.1M and 41.7M."""
    assert P.count(bert.declare(config.bert(size))) == pretraining


def test_the_base_model_with_its_pooler_and_heads_has_the_published_counts():
    base = config.bert("base")
    assert P.count(bert.declare(replace(base, head="sequence", n_classes=2))) == 109_482_240 + 2 * 769
    assert P.count(bert.declare(replace(base, head="none"))) == 109_482_240 - 768 * 769
    assert P.count(bert.declare(replace(base, head="token", n_classes=9))) == 109_482_240 - 768 * 769 + 9 * 769
    assert P.count(bert.declare(replace(base, head="lm"))) == 109_514_298  # BertForMaskedLM
    untied = replace(base, head="lm", tie_embeddings=False)
    assert P.count(bert.declare(untied)) == 109_514_298 + 768 * 30522


@pytest.mark.parametrize("head", CONFIGS)
def test_padding_weighs_and_changes_nothing(head):
    cfg = CONFIGS[head]
    params, batch = draw(bert.declare(cfg)), drawn_batch(cfg)
    others = {"inputs": draw_tokens(cfg, 4, 11, seed=8), "segments": batch["segments"][:, ::-1]}
    changed = batch | {name: jnp.where(batch["mask"], batch[name], x) for name, x in others.items()}
    assert (changed["inputs"] != batch["inputs"]).any()
    jax.tree.map(np.testing.assert_array_equal, *(loss_and_grads(params, b, cfg) for b in (batch, changed)))
    if cfg.head in ("lm", "pretraining"):
        first, second = (
            apply(params, b["inputs"], cfg, mask=b["mask"], segments=b["segments"]) for b in (batch, changed)
        )
        np.testing.assert_array_equal(first[batch["mask"]], second[batch["mask"]])


@pytest.mark.parametrize("head", ["lm", "untied"])
def test_the_loss_is_that_of_the_full_logits_at_the_masked_places(head):
    cfg = CONFIGS[head]
    params, batch = draw(bert.declare(cfg)), drawn_batch(cfg)
    batch["weights"] = jnp.array(np.random.default_rng(0).uniform(0, 2, (4, 3)), "float32")
    logits = apply(params, batch["inputs"], cfg, mask=batch["mask"], segments=batch["segments"])
    there = np.asarray(jnp.take_along_axis(logits, batch["positions"][..., None], 1), np.float64)
    nats, right = cross_entropy(there, batch["targets"])
    weights = np.asarray(batch["weights"], np.float64)
    found, sums = loss(params, batch, cfg)
    assert float(found) == pytest.approx((nats * weights).sum() / weights.sum(), rel=1e-5)
    assert set(sums) == {"weight", "nats", "correct"}
    assert float(sums["weight"]) == pytest.approx(weights.sum(), rel=1e-6)
    assert float(sums["nats"]) == pytest.approx((nats * weights).sum(), rel=1e-5)
    assert float(sums["correct"]) == pytest.approx((right * weights).sum(), rel=1e-6)

    smoothed = replace(cfg, label_smoothing=0.2)
    wanted, _ = cross_entropy(there, batch["targets"], 0.2)
    found, same = loss(params, batch, smoothed)
    assert float(found) == pytest.approx((wanted * weights).sum() / weights.sum(), rel=1e-5)
    for name in sums:
        assert float(same[name]) == float(sums[name])  # the sums are of the plain cross-entropy

    del batch["weights"]
    assert loss(params, batch, cfg)[1]["weight"] == 12
    assert float(loss(params, batch, cfg)[0]) == pytest.approx(nats.mean(), rel=1e-5)


def cross_entropy(logits, targets, smoothing=0.0):
    """Szegedy et al. 2016, section 7, in float64: of (1 - s) at the target and s spread evenly; and who is right."""
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    wanted = (1 - smoothing) * np.eye(logits.shape[-1])[np.asarray(targets)] + smoothing / logits.shape[-1]
    return -(wanted * log_p).sum(-1), logits.argmax(-1) == np.asarray(targets)


@pytest.mark.parametrize("head", ["sequence", "token"])
def test_the_loss_of_a_classifier_is_that_of_its_logits(head):
    cfg = replace(CONFIGS[head], label_smoothing=0.1)
    params, batch = draw(bert.declare(cfg)), drawn_batch(cfg)
    logits = classify(params, batch["inputs"], cfg, mask=batch["mask"], segments=batch["segments"])
    assert logits.shape == (*batch["labels"].shape, 5)
    logits = np.asarray(logits, np.float64)
    batch["weights"] = jnp.array(np.random.default_rng(0).uniform(0, 2, batch["labels"].shape), "float32")
    weights = np.asarray(batch["weights"], np.float64)
    found, sums = loss(params, batch, cfg)
    nats, _ = cross_entropy(logits, batch["labels"], 0.1)
    assert float(found) == pytest.approx((nats * weights).sum() / weights.sum(), rel=1e-5)
    nats, right = cross_entropy(logits, batch["labels"])
    for name, wanted in {"weight": weights, "nats": nats * weights, "correct": right * weights}.items():
        assert float(sums[name]) == pytest.approx(wanted.sum(), rel=1e-5)


def test_next_sentences_add_their_mean_loss_and_count_who_is_right():
    cfg = replace(PRETRAINING, label_smoothing=0.1)
    params, batch = draw(bert.declare(cfg)), drawn_batch(cfg)
    states = encode(params, batch["inputs"], cfg, mask=batch["mask"], segments=batch["segments"])
    judged = bert.next_sentence(params, bert.pooled(params, states, cfg))
    nats, right = cross_entropy(np.asarray(judged, np.float64), batch["next_sentence"])  # never smoothed
    both, sums = loss(params, batch, cfg)
    alone, masked = loss(params, {name: x for name, x in batch.items() if name != "next_sentence"}, cfg)
    assert float(both - alone) == pytest.approx(nats.mean(), rel=1e-4)
    assert {name: float(x) for name, x in sums.items()} == {
        **{name: float(x) for name, x in masked.items()}, "next_weight": 4, "next_correct": right.sum()
    }  # fmt: skip


@pytest.mark.parametrize("head", CONFIGS)
def test_a_batch_of_weight_0_has_loss_0_and_no_gradient(head):
    cfg = CONFIGS[head]
    batch = drawn_batch(cfg)
    batch.pop("next_sentence", None)
    batch["weights"] = jnp.zeros(batch["labels" if "labels" in batch else "targets"].shape)
    (found, sums), grads = loss_and_grads(draw(bert.declare(cfg)), batch, cfg)
    assert (found, sums["weight"]) == (0, 0)
    assert not any(g.any() for g in jax.tree.leaves(grads))


def test_pooling_reads_real_tokens_alone():
    states = jnp.array(np.random.default_rng(0).normal(-3, 1, (3, 5, 7)), jnp.float32)
    lengths = np.array([5, 2, 1])
    mask = jnp.array(np.arange(5) < lengths[:, None])
    rows = [np.asarray(states[i, :n], np.float64) for i, n in enumerate(lengths)]
    for how, wanted in {"mean": np.mean, "max": np.max, "cls": lambda x, axis: x[0]}.items():
        found = bert.pool(states, mask, how)
        np.testing.assert_allclose(found, [wanted(x, axis=0) for x in rows], rtol=1e-5)
        np.testing.assert_allclose(
            bert.pool(states, None, how), [wanted(np.asarray(x), axis=0) for x in states], rtol=1e-5
        )


@pytest.mark.parametrize(("how", "side"), [(how, side) for how in ("mean", "max", "cls") for side in ("left", "right")])
def test_pooling_a_padded_text_is_that_of_the_text(how, side):
    params, tokens = draw(bert.declare(SMALL)), draw_tokens(SMALL, 2, 9)
    real = slice(0, 7) if side == "right" else slice(2, 9)
    mask = jnp.ones((2, 9), bool).at[1].set(False).at[1, real].set(True)
    found = bert.pool(encode(params, tokens, SMALL, mask=mask), mask, how)[1]
    wanted = bert.pool(encode(params, tokens[1:, real], SMALL), None, how)[0]
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("head", CONFIGS)
def test_dropout_acts_on_a_key_alone(head):
    cfg = replace(CONFIGS[head], dropout=0.1)
    params, batch = draw(bert.declare(cfg)), drawn_batch(cfg)
    seeds = ((cfg, 0), (cfg, 0), (cfg, 1), (cfg, None), (CONFIGS[head], None))
    first, again, other, none, plain = (
        float(loss(params, batch, cfg, key=None if seed is None else jax.random.key(seed))[0]) for cfg, seed in seeds
    )
    assert first == again
    assert none == plain
    assert len({first, other, none}) == 3


def test_embeddings_are_dropped_after_their_norm_and_keep_their_mean():
    cfg = replace(SMALL, dropout=0.4)
    params, tokens = draw(embedding_params(cfg)), draw_tokens(cfg, 2, 11)
    plain = embed(params, tokens, jnp.arange(11)[None], cfg)
    draws = jax.jit(jax.vmap(lambda key: embed(params, tokens, jnp.arange(11)[None], cfg, key=key)))(
        jax.random.split(jax.random.key(0), 2000)
    )
    assert float((draws == 0).mean()) == pytest.approx(0.4, abs=0.005)
    error = np.sqrt(0.4 / 0.6 / 2000) * np.abs(plain)  # the standard error of the mean of the draws
    assert (np.abs(draws.mean(0) - plain) < 6 * error).all()


@pytest.mark.parametrize("head", ["lm", "sequence"])
@pytest.mark.parametrize("dtype", few(["bfloat16", "float16"]))
def test_low_precision_logits_and_gradients_are_float32_and_near(head, dtype):
    cfg = replace(CONFIGS[head], dtype=dtype)
    params, batch = jax.tree.map(lambda x: x / 2, draw(bert.declare(cfg))), drawn_batch(cfg)
    run = apply if head == "lm" else classify
    low, high = (
        run(params, batch["inputs"], replace(cfg, dtype=d), mask=batch["mask"], segments=batch["segments"])
        for d in (dtype, "float32")
    )
    assert low.dtype == "float32"
    assert 1e-5 < relative_error(low, np.asarray(high)) < 5e-2
    (found, _), grads = loss_and_grads(params, batch, cfg)
    assert found.dtype == "float32"
    assert {g.dtype for g in jax.tree.leaves(grads)} == {jnp.dtype("float32")}
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(grads))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"inputs": jnp.full((4, 11), 23)}, r"tokens: found the id 23, expected 0\.\.22"),
        ({"inputs": jnp.full((4, 20), 1)}, r"tokens: found 20 in a row, expected at most 19"),
        ({"segments": jnp.full((4, 11), 3)}, r"segments: found the id 3, expected 0\.\.2"),
        ({"targets": jnp.full((4, 3), -1)}, r"targets: found the id -1, expected 0\.\.22"),
        ({"positions": jnp.full((4, 3), 11)}, r"positions: found the id 11, expected 0\.\.10"),
        ({"next_sentence": jnp.full(4, 2)}, r"next_sentence: found the id 2, expected 0\.\.1"),
        ({"labels": jnp.zeros(4, int)}, r"batch: found 'labels', expected one of "),
        ({"positions": None}, r"batch: found \['inputs'.*\], expected positions too"),
        ({"weight": jnp.ones((4, 3))}, r"batch: found 'weight', expected one of .* \(nearest: weights\)"),
    ],
)
def test_a_mistake_in_a_batch_is_refused_by_name(changes, words):
    params, batch = draw(bert.declare(PRETRAINING)), drawn_batch(PRETRAINING)
    if "inputs" in changes:
        del batch["segments"], batch["mask"]
    with pytest.raises(ValueError, match=f"^{words}"):
        bert.loss(params, {name: x for name, x in (batch | changes).items() if x is not None}, PRETRAINING)


def test_a_loss_that_the_model_has_no_head_for_is_refused():
    batch = drawn_batch(PRETRAINING)
    with pytest.raises(ValueError, match="batch: found 'next_sentence', expected one of"):
        bert.loss(draw(bert.declare(SMALL)), batch, SMALL)
    bare = replace(SMALL, head="none", n_segments=0)
    with pytest.raises(ValueError, match=r"model\.head: found 'none', expected one that has a loss"):
        bert.loss(draw(bert.declare(bare)), batch, bare)
    with pytest.raises(ValueError, match=r"segments: found 'an array', expected None, as model\.n_segments=0"):
        bert.encode(draw(bert.declare(bare)), batch["inputs"], bare, segments=batch["segments"])


def test_a_padded_text_is_classified_as_it_is_alone_with_padding_on_either_side():
    cfg = CONFIGS["sequence"]
    params, tokens = draw(bert.declare(cfg)), draw_tokens(cfg, 2, 9)
    for real in (slice(0, 7), slice(2, 9)):
        mask = jnp.ones((2, 9), bool).at[1].set(False).at[1, real].set(True)
        found = classify(params, tokens, cfg, mask=mask)[1]
        np.testing.assert_allclose(found, classify(params, tokens[1:, real], cfg)[0], atol=1e-5)


@pytest.mark.parametrize("position", few(["learned", "rotary", "sinusoidal", "relative"]))
@pytest.mark.parametrize("changes", few([{}, {"window": 2}, {"n_segments": 0, "pooler_activation": "relu"}], 2))
def test_packed_texts_have_the_classes_and_the_gradient_of_each_alone(position, changes):
    cfg = replace(CONFIGS["sequence"], context_length=17, position=position, **changes)
    params, batch = draw(bert.declare(cfg)), drawn_batch(cfg)  # of 11, 4, 9 and 1 tokens
    batch["weights"] = jnp.array([0.5, 2.0, 1.5, 1.0])
    packed = {name: [] for name in ("inputs", "texts", "segments")}
    for row in ((1, 0), (3, 2)):
        parts = [np.asarray(batch["mask"][i]) for i in row]
        for name in packed.keys() & batch.keys():
            ids = np.concatenate([np.asarray(batch[name][i])[part] for i, part in zip(row, parts, strict=True)])
            packed[name].append(np.pad(ids, (0, 17 - len(ids))))
        numbers = np.repeat([1, 2], [part.sum() for part in parts])
        packed["texts"].append(np.pad(numbers, (0, 17 - len(numbers))))
    packed = {name: jnp.array(rows) for name, rows in packed.items() if rows}
    packed["positions"] = jnp.array([[0, 4, 0], [0, 1, 0]])
    order = np.array([[1, 0], [3, 2]])
    for name in ("labels", "weights"):
        packed[name] = jnp.pad(batch[name][order], ((0, 0), (0, 1)))

    inputs = {name: batch.get(name) for name in ("mask", "segments")}
    wanted = classify(params, batch["inputs"], cfg, **inputs)
    inputs = {name: packed.get(name) for name in ("texts", "positions", "segments")}
    np.testing.assert_allclose(classify(params, packed["inputs"], cfg, **inputs)[:, :2], wanted[order], atol=1e-5)
    (nats, sums), grads = loss_and_grads(params, packed, cfg)
    (alone, wanted_sums), wanted = loss_and_grads(params, batch, cfg)
    assert float(nats) == pytest.approx(float(alone), rel=1e-5)
    np.testing.assert_allclose(sums["confusion"], wanted_sums["confusion"])
    close = functools.partial(np.testing.assert_allclose, atol=1e-5)
    jax.tree.map(close, grads, wanted)


def test_what_packed_texts_are_not_is_refused():
    cfg = CONFIGS["sequence"]
    params, tokens = draw(bert.declare(cfg)), draw_tokens(cfg, 2, 5)
    ones = jnp.ones((2, 5), int)
    with pytest.raises(ValueError, match=r"texts, positions: found 'one of them', expected both or neither"):
        bert.classify(params, tokens, cfg, texts=ones)
    with pytest.raises(ValueError, match=r"texts: found 'a mask too', expected texts alone \(0 marks padding\)"):
        bert.encode(params, tokens, cfg, mask=ones > 0, texts=ones)


def test_a_label_outside_the_classes_is_refused():
    cfg = CONFIGS["sequence"]
    with pytest.raises(ValueError, match=r"labels: found the id 5, expected 0\.\.4"):
        bert.loss(draw(bert.declare(cfg)), drawn_batch(cfg) | {"labels": jnp.full(4, 5)}, cfg)


def test_a_head_that_the_model_lacks_is_refused():
    for wrong, f in (("sequence", bert.apply), ("lm", bert.classify)):
        cfg = CONFIGS[wrong]
        with pytest.raises(ValueError, match=rf"model\.head: found '{wrong}', expected "):
            f(draw(bert.declare(cfg)), draw_tokens(cfg, 2, 5), cfg)
    with pytest.raises(ValueError, match=r"model\.architecture: found 'decoder', expected encoder"):
        bert.declare(TINY)


# Divisible by 8 rows, by 4 embed columns, heads, mlp, vocabulary.
CUT = replace(SMALL, vocab_size=28, context_length=18, d_model=20, n_heads=4, n_kv_heads=2, head_dim=6, d_ff=12)
CUBE = MeshConfig(data=2, fsdp=2, tensor=2)


@pytest.mark.parametrize(
    ("mesh", "cfg"),
    few(
        [
            (CUBE, replace(CUT, position="relative", norm_position="pre", tie_embeddings=False)),
            (CUBE, replace(CUT, head="token", n_classes=5, position="rotary")),
            (MeshConfig(data=8), replace(CUT, head="pretraining")),
            (MeshConfig(fsdp=8), replace(CUT, d_model=40, scan_layers=True, n_layers=2)),
            (MeshConfig(data=2, tensor=4), replace(CUT, head="sequence", n_classes=5)),
            (MeshConfig(data=4, sequence=2), replace(CUT, head="pretraining")),
        ]
    ),
    ids=["2x2x2", "2x2x2 tokens", "data=8", "fsdp=8", "2x4", "sequence=2"],
)
def test_eight_devices_compute_what_one_does(mesh, cfg):
    params, batch = draw(bert.declare(cfg)), jax.tree.map(np.asarray, drawn_batch(cfg, rows=8, time=18))
    (one, _), grads = jax.block_until_ready(loss_and_grads(params, batch, cfg))
    mesh = make_mesh(mesh)
    placed = jax.device_put(params, P.shardings(bert.declare(cfg), mesh))
    # The few masked places of a row are never cut.
    cut = {
        name: place(x, mesh, ("batch", "time" if x.shape[1:] == (18,) else None)[: x.ndim]) for name, x in batch.items()
    }
    with jax.set_mesh(mesh):
        (found, _), cut_grads = jax.block_until_ready(loss_and_grads(placed, cut, cfg))
    assert len(found.devices()) == 8
    np.testing.assert_allclose(found, one, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), cut_grads, grads)


# Every field: a config, another value, and what must then differ, as in tests/test_config.py; "loss": the loss alone.
ROTARY = replace(SMALL, position="rotary")
RELATIVE = replace(SMALL, position="relative", relative_buckets=8, relative_max_distance=9)
CHANGES = {
    "architecture": [(replace(SMALL, n_segments=0), "decoder", "ValueError")],
    "vocab_size": [(SMALL, 29, "shapes")],
    "context_length": [(SMALL, 31, "shapes"), (ROTARY, 10, "ValueError")],
    "d_model": [(SMALL, 22, "shapes")],
    "n_layers": [(SMALL, 2, "shapes")],
    "n_encoder_layers": [(SMALL, 2, "ValueError")],
    "n_heads": [(SMALL, 8, "shapes")],
    "n_kv_heads": [(SMALL, 3, "shapes")],
    "head_dim": [(SMALL, 5, "shapes")],
    "d_ff": [(SMALL, 18, "shapes")],
    "norm": [(SMALL, "rms", "shapes"), (replace(SMALL, bias=False), "rms", "loss")],
    "norm_position": [(SMALL, "pre", "shapes")],
    "norm_epsilon": [(SMALL, 1e-2, "loss")],
    "position": [(SMALL, "sinusoidal", "shapes"), (SMALL, "relative", "shapes"), (ROTARY, "sinusoidal", "loss")],
    "position_offset": [(SMALL, 2, "shapes"), (ROTARY, 2, "ValueError")],
    "rope_theta": [(ROTARY, 51.0, "loss")],
    "rope_width": [(ROTARY, 2, "loss")],
    "rope_scaling": [(ROTARY, RopeScaling("linear", 2.0), "loss")],
    "attention_bias": [(SMALL, "inputs", "shapes")],
    "mlp_bias": [(SMALL, False, "shapes")],
    "qk_norm": [(SMALL, True, "shapes")],
    "attention_scale": [(SMALL, 1.0, "loss")],
    "head_bias": [(SMALL, True, "ValueError")],
    "logit_scale": [(SMALL, 0.5, "ValueError")],
    "pooler_activation": [(CONFIGS["sequence"], "relu", "loss"), (SMALL, "relu", "ValueError")],
    "relative_buckets": [(RELATIVE, 6, "shapes")],
    "relative_max_distance": [(RELATIVE, 17, "loss")],
    "window": [(cfg, 8, "loss") for cfg in (SMALL, ROTARY, RELATIVE)],
    "activation": [(SMALL, name, "loss") for name in ("gelu_tanh", "relu", "silu")],
    "gated": [(SMALL, True, "shapes")],
    "bias": [(SMALL, False, "shapes")],
    "n_segments": [(SMALL, 2, "shapes"), (SMALL, 0, "shapes")],
    "embedding_norm": [(SMALL, False, "shapes")],
    "embedding_scale": [(SMALL, True, "loss")],
    "tie_embeddings": [(SMALL, False, "shapes"), (PRETRAINING, False, "shapes")],
    "head": [(SMALL, "pretraining", "shapes"), (SMALL, "none", "shapes"), (CONFIGS["sequence"], "token", "shapes")],
    "n_classes": [(CONFIGS["sequence"], 6, "shapes"), (CONFIGS["token"], 6, "shapes"), (SMALL, 2, "ValueError")],
    "dropout": [(SMALL, 0.1, "loss with dropout")],
    "label_smoothing": [(cfg, 0.1, "loss") for cfg in CONFIGS.values()],
    "init_std": [(SMALL, 0.03, "values")],
    "dtype": [(SMALL, "bfloat16", "loss"), (PRETRAINING, "float16", "loss")],
    "attention": [(SMALL, "cudnn", "ValueError"), (SMALL, "splash", "ValueError")],
    "scan_layers": [(replace(SMALL, n_layers=2), True, "program")],
    "remat": [(SMALL, "dots", "program"), (SMALL, "full", "program")],
}


def program(cfg: ModelConfig) -> str:
    """The traced loss and gradients as text, without memory addresses."""
    gradients = jax.value_and_grad(lambda p: bert.loss(p, drawn_batch(cfg), cfg)[0])
    return re.sub(r"0x[0-9a-f]+", "", str(jax.make_jaxpr(gradients)(draw(bert.declare(cfg)))))


def build_and_lose(base: ModelConfig, batch: dict, **changes):
    cfg = replace(base, **changes)
    return bert.loss(draw(bert.declare(cfg)), batch, cfg)


@pytest.mark.thorough
@pytest.mark.parametrize("field", [field.name for field in fields(ModelConfig)])
def test_changing_any_field_changes_parameters_or_loss_or_the_program(field):
    for base, value, effect in CHANGES[field]:  # KeyError: a new field needs a case here
        assert getattr(base, field) != value
        params, batch = draw(bert.declare(base)), drawn_batch(base)
        if effect == "ValueError":
            with pytest.raises(ValueError, match=rf"model\.{field}|tokens: found 11 in a row, expected at most 10"):
                build_and_lose(base, batch, **{field: value})
            continue
        changed = replace(base, **{field: value})
        shapes = [jax.tree.map(lambda p: p.shape, bert.declare(cfg)) for cfg in (base, changed)]
        assert (shapes[0] != shapes[1]) == (effect == "shapes")
        if effect == "values":
            inits = [jax.tree.leaves(bert.init(jax.random.key(0), cfg)) for cfg in (base, changed)]
            assert any((a != b).any() for a, b in zip(*inits, strict=True))
        if effect.startswith("loss"):
            first, second = (float(loss(params, batch, cfg)[0]) for cfg in (base, changed))
            if effect == "loss with dropout":
                assert first == second
                first, second = (float(loss(params, batch, cfg, key=jax.random.key(3))[0]) for cfg in (base, changed))
            assert np.isfinite(second)
            assert abs(first - second) > 1e-5
        if effect == "program":
            results = [loss_and_grads(params, batch, cfg) for cfg in (base, changed)]
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), *results)
            assert program(base) == program(replace(base))
            assert program(base) != program(changed)
