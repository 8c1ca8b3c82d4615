import re
from dataclasses import fields, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import plain
import pytest
from peers import parameters
from tiers import few
from tiny import SCHEMES, TINY, draw, draw_tokens

from jaxgpt import config, seq2seq
from jaxgpt import params as P
from jaxgpt.attention import KVCache
from jaxgpt.config import ModelConfig, RopeScaling
from jaxgpt.sharding import MeshConfig, make_mesh, place

GOLDEN = Path(__file__).parent / "golden"
KINDS = {
    f"{scheme} {norm}": replace(
        cfg, architecture="encoder-decoder", n_layers=2, n_encoder_layers=1, norm_position=norm, embedding_scale=True
    )
    for scheme, cfg in SCHEMES.items()
    for norm in ("pre", "post")
}
SOME = few(sorted(KINDS, key=lambda kind: kind not in ("learned post", "rotary pre")), 2)
SMALL = replace(TINY, architecture="encoder-decoder", n_layers=1, norm_position="post")
ROTARY, RELATIVE = (replace(KINDS[f"{x} post"], n_layers=1) for x in ("rotary", "relative"))
SOURCES, TARGETS = np.array([11, 1, 5, 8]), np.array([3, 7, 9, 1])
SOURCE_MASK = jnp.array(np.arange(11) < SOURCES[:, None])
TARGET_MASK = jnp.array(np.arange(9) < TARGETS[:, None])
MASKS = {"source_mask": SOURCE_MASK, "target_mask": TARGET_MASK}
encode = jax.jit(seq2seq.encode, static_argnums=2)
remember = jax.jit(seq2seq.remember, static_argnums=2)
decode = jax.jit(seq2seq.decode, static_argnums=3)
apply = jax.jit(seq2seq.apply, static_argnums=3)
loss = jax.jit(seq2seq.loss, static_argnums=2)
loss_and_grads = jax.jit(jax.value_and_grad(seq2seq.loss, has_aux=True), static_argnums=2)


def drawn_pairs(cfg, seed=1):
    """Sources of up to 11 tokens and targets of up to 9, 4 rows."""
    return draw_tokens(cfg, 4, 11, seed), draw_tokens(cfg, 4, 9, seed + 1)


def drawn_batch(cfg, seed=1):
    source, text = drawn_pairs(cfg, seed)[0], draw_tokens(cfg, 4, 10, seed + 1)
    return {
        "source": source,
        "source_mask": SOURCE_MASK,
        "inputs": text[:, :-1],
        "targets": text[:, 1:],
        "weights": TARGET_MASK.astype("float32"),
    }


def relative_error(found, wanted) -> float:
    return float(np.abs(np.asarray(found, np.float64) - wanted).max() / np.abs(wanted).max())


def agree(found, wanted, tolerance=5e-6):
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6 + tolerance * float(np.abs(wanted).max()))


# What tests/golden/make_encoder.py built.
MARIAN = replace(
    config.transformer(), vocab_size=31, context_length=13, d_model=12, n_layers=1, n_encoder_layers=2, n_heads=3,
    d_ff=19, label_smoothing=0.0,
)  # fmt: skip
T5 = ModelConfig(
    architecture="encoder-decoder", vocab_size=27, context_length=13, d_model=10, n_layers=1, n_encoder_layers=2,
    n_heads=4, head_dim=3, d_ff=15, norm="rms", norm_epsilon=1e-6, position="relative", relative_buckets=8,
    relative_max_distance=11, gated=True, bias=False, attention_scale=1.0,
)  # fmt: skip
FAMILIES = {"marian": MARIAN, "t5": T5}


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_loss_and_gradients_are_transformers_own(family, record_property):
    cfg = FAMILIES[family]
    golden = np.load(GOLDEN / f"{family}.npz", allow_pickle=False)

    def tree(kind):
        names = [name for name in golden if name.startswith(kind)]
        weights = {name.removeprefix(kind): golden[name].astype("float32") for name in names}
        return parameters(family, cfg, weights)

    params, real = tree("param/"), golden["target_mask"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(lambda p: p.shape, seq2seq.declare(cfg))
    batch = {name: jnp.array(golden[name]) for name in ("source", "source_mask", "inputs", "targets")}
    batch["weights"] = jnp.array(real, "float32")
    masks = {"source_mask": batch["source_mask"], "target_mask": jnp.array(real)}
    logits = apply(params, batch["source"], batch["inputs"], cfg, **masks)
    errors = {"logits": relative_error(logits[real], golden["logits"][real])}
    (found, sums), grads = loss_and_grads(params, batch, cfg)
    errors["loss"] = relative_error(found, golden["loss"])
    errors["smoothed loss"] = relative_error(
        loss(params, batch, replace(cfg, label_smoothing=0.1))[0], golden["smoothed_loss"]
    )
    assert sums["weight"] == real.sum()
    wanted = tree("grad/")
    if cfg.bias:  # A key's bias moves all of a query's scores alike: its gradient is 0 but for rounding.
        for tree_ in (grads, wanted):
            for side, name in (("encoder", "attention"), ("decoder", "attention"), ("decoder", "cross")):
                assert np.abs(tree_[side]["layers"][name]["key"].pop("bias")).max() < 1e-6
    both = zip(jax.tree.leaves_with_path(grads), jax.tree.leaves_with_path(wanted), strict=True)
    gradients = {jax.tree_util.keystr(a): relative_error(x, y) for (a, x), (b, y) in both if a == b}
    assert len(gradients) == len(jax.tree.leaves(wanted))
    errors |= gradients
    record_property("largest error", max(errors.values()))
    assert max(errors.values()) < 1e-5, errors


@pytest.mark.parametrize("kind", SOME)
@pytest.mark.parametrize("window", [None, 4])
def test_logits_are_the_formulas_of_each_row_without_its_padding(kind, window):
    cfg = replace(KINDS[kind], window=window)
    params, pairs = draw(seq2seq.declare(cfg)), drawn_pairs(cfg)
    found = np.where(TARGET_MASK[..., None], apply(params, *pairs, cfg, **MASKS), 0)
    agree(found, plain.seq2seq_logits(params, *pairs, cfg, SOURCE_MASK, TARGET_MASK), 2e-5)


@pytest.mark.parametrize("change", [{"tie_embeddings": False}, {"embedding_norm": True}, {"embedding_scale": False}])
def test_heads_and_embeddings_are_the_formulas(change):
    cfg = replace(KINDS["learned pre"], **change)
    params, pairs = draw(seq2seq.declare(cfg)), drawn_pairs(cfg)
    found = np.where(TARGET_MASK[..., None], apply(params, *pairs, cfg, **MASKS), 0)
    agree(found, plain.seq2seq_logits(params, *pairs, cfg, SOURCE_MASK, TARGET_MASK), 2e-5)


def by_hand(d_model, layers=6, vocab=37000):
    """Vaswani et al. 2017, section 3, with biases: one embedding, d_ff = 4 d_model, two norms and three a layer."""
    attention, mlp, norm = 4 * (d_model**2 + d_model), 8 * d_model**2 + 5 * d_model, 2 * d_model
    return vocab * d_model + layers * (attention + mlp + 2 * norm) + layers * (2 * attention + mlp + 3 * norm)


@pytest.mark.parametrize(("size", "d_model", "printed"), [("base", 512, 65e6), ("big", 1024, 213e6)])
def test_parameter_counts_are_those_of_2017(size, d_model, printed):
    found = P.count(seq2seq.declare(config.transformer(size)))
    assert found == by_hand(d_model)
    assert found == pytest.approx(printed, rel=0.035)
    deeper = replace(config.transformer(size), n_encoder_layers=12)
    assert P.count(seq2seq.declare(deeper)) - found == 6 * (12 * d_model**2 + 13 * d_model)


@pytest.mark.parametrize("kind", SOME)
def test_what_stands_at_padding_changes_no_bit(kind):
    cfg = KINDS[kind]
    params, pairs, others = draw(seq2seq.declare(cfg)), drawn_pairs(cfg), drawn_pairs(cfg, seed=5)
    source, target = (jnp.where(m, x, o) for m, x, o in zip(MASKS.values(), pairs, others, strict=True))
    first = apply(params, *pairs, cfg, **MASKS)
    for changed in ((source, pairs[1]), (pairs[0], target)):
        np.testing.assert_array_equal(apply(params, *changed, cfg, **MASKS)[TARGET_MASK], first[TARGET_MASK])
    states = encode(params, pairs[0], cfg, source_mask=SOURCE_MASK)
    changed = encode(params, source, cfg, source_mask=SOURCE_MASK)
    np.testing.assert_array_equal(changed[SOURCE_MASK], states[SOURCE_MASK])


def test_padding_of_a_batch_changes_neither_its_loss_nor_gradients():
    batch, others = drawn_batch(SMALL), drawn_batch(SMALL, seed=5)
    changed = dict(batch)
    changed["source"] = jnp.where(SOURCE_MASK, batch["source"], others["source"])
    for name in ("inputs", "targets"):
        changed[name] = jnp.where(TARGET_MASK, batch[name], others[name])
    params = draw(seq2seq.declare(SMALL))
    jax.tree.map(agree, *(loss_and_grads(params, b, SMALL) for b in (batch, changed)))


@pytest.mark.parametrize("kind", SOME)
def test_a_pair_has_the_same_logits_alone_and_in_any_batch_with_padding_anywhere(kind):
    cfg = KINDS[kind]
    params, (source, target) = draw(seq2seq.declare(cfg)), drawn_pairs(cfg)
    together = apply(params, source, target, cfg, **MASKS)
    scale = float(jnp.abs(together).max())
    for row, (seen, length) in enumerate(zip(SOURCES, TARGETS, strict=True)):
        alone = apply(params, source[row : row + 1, :seen], target[row : row + 1, :length], cfg)
        np.testing.assert_allclose(together[row : row + 1, :length], alone, atol=1e-6 * scale)

    def left(xs, lengths):
        return jnp.stack([jnp.roll(x, -n) for x, n in zip(xs, lengths, strict=True)])

    masks = {"source_mask": left(SOURCE_MASK, SOURCES), "target_mask": left(TARGET_MASK, TARGETS)}
    shifted = apply(params, left(source, SOURCES), left(target, TARGETS), cfg, **masks)
    np.testing.assert_allclose(shifted[masks["target_mask"]], together[TARGET_MASK], atol=1e-6 * scale)


@pytest.mark.parametrize("kind", SOME)
def test_a_logit_has_a_gradient_from_all_of_the_source_and_from_no_later_target(kind):
    cfg = replace(KINDS[kind], n_layers=1, vocab_size=14, tie_embeddings=False)
    params = draw(seq2seq.declare(cfg))
    source, target = jnp.arange(7)[None], jnp.arange(7, 14)[None]  # each id once: its row's gradient is its place's
    real = jnp.arange(7)[None] < 6

    def reach(params, t):
        logits = seq2seq.apply(params, source, target, cfg, source_mask=real)[0, t]
        return (logits * jnp.cos(jnp.arange(14))).sum()

    slopes = jax.jit(jax.vmap(lambda t: jax.grad(reach)(params, t)["embedding"]["token"]))(jnp.arange(7))
    reached = (slopes != 0).any(-1)
    np.testing.assert_array_equal(reached[:, :7], np.broadcast_to(real, (7, 7)))
    np.testing.assert_array_equal(reached[:, 7:], np.tri(7, dtype=bool))


@pytest.mark.parametrize("kind", SOME)
@pytest.mark.parametrize("sizes", [[1] * 9, [4, 1, 4]], ids=["one by one", "pieces"])
def test_cached_decode_is_the_full_forward(kind, sizes):
    cfg = KINDS[kind]
    params, (source, target) = draw(seq2seq.declare(cfg)), drawn_pairs(cfg)
    full = apply(params, source, target, cfg, **MASKS)
    memory = remember(params, encode(params, source, cfg, source_mask=SOURCE_MASK), cfg, source_mask=SOURCE_MASK)
    agree(decode(params, memory, target, cfg, mask=TARGET_MASK)[TARGET_MASK], full[TARGET_MASK])
    cache, found, start = KVCache.empty(cfg, 4, slots=10), [], 0
    for size in sizes:
        part = slice(start, start + size)
        logits, cache = decode(params, memory, target[:, part], cfg, mask=TARGET_MASK[:, part], cache=cache)
        found.append(logits)
        start += size
    assert cache.used == 9
    agree(jnp.concatenate(found, 1)[TARGET_MASK], full[TARGET_MASK], 1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision_decodes_by_a_cache_near_float32(dtype):
    cfg = replace(KINDS["relative pre"], dtype=dtype)
    params, (source, target) = jax.tree.map(lambda x: x / 2, draw(seq2seq.declare(cfg))), drawn_pairs(cfg)
    wanted = apply(params, source, target, replace(cfg, dtype="float32"), source_mask=SOURCE_MASK)
    full = apply(params, source, target, cfg, source_mask=SOURCE_MASK)
    memory = remember(params, encode(params, source, cfg, source_mask=SOURCE_MASK), cfg, source_mask=SOURCE_MASK)
    assert memory.key[0].dtype == dtype
    cache, found = KVCache.empty(cfg, 4), []
    for t in range(9):
        logits, cache = decode(params, memory, target[:, t : t + 1], cfg, cache=cache)
        found.append(logits)
    for logits in (full, jnp.concatenate(found, 1)):
        assert logits.dtype == "float32"
        assert jnp.isfinite(logits).all()
        assert 1e-5 < relative_error(logits, np.asarray(wanted)) < 5e-2
    (found, _), grads = loss_and_grads(params, drawn_batch(cfg), cfg)
    assert found.dtype == "float32"
    assert {g.dtype for g in jax.tree.leaves(grads)} == {jnp.dtype("float32")}
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(grads))


@pytest.mark.parametrize("smoothing", [0.0, 0.15])
def test_the_loss_is_the_smoothed_cross_entropy_by_hand(smoothing):
    cfg = replace(SMALL, label_smoothing=smoothing)
    params, batch = draw(seq2seq.declare(cfg)), drawn_batch(cfg)
    logits = apply(params, batch["source"], batch["inputs"], cfg, source_mask=SOURCE_MASK)
    logits, weights = np.asarray(logits, np.float64), np.random.default_rng(0).uniform(0, 2, (4, 9))
    log_p, right = logits - np.log(np.exp(logits).sum(-1, keepdims=True)), np.eye(23)[np.asarray(batch["targets"])]
    nats = -(right * log_p).sum(-1)
    smooth = -(((1 - smoothing) * right + smoothing / 23) * log_p).sum(-1)
    found, sums = loss(params, batch | {"weights": jnp.array(weights, "float32")}, cfg)
    assert float(found) == pytest.approx((smooth * weights).sum() / weights.sum(), rel=1e-5)
    assert set(sums) == {"weight", "nats", "correct"}
    assert float(sums["weight"]) == pytest.approx(weights.sum(), rel=1e-6)
    assert float(sums["nats"]) == pytest.approx((nats * weights).sum(), rel=1e-5)
    hits = logits.argmax(-1) == np.asarray(batch["targets"])
    assert float(sums["correct"]) == pytest.approx((hits * weights).sum(), rel=1e-6)
    del batch["weights"]
    found, sums = loss(params, batch, cfg)
    assert sums["weight"] == 36
    assert float(found) == pytest.approx(smooth.mean(), rel=1e-5)
    del batch["source_mask"]
    assert float(loss(params, batch, cfg)[0]) != pytest.approx(smooth.mean(), rel=1e-5)  # the sources are longer now


def test_a_batch_of_weight_0_has_loss_0_and_no_gradient():
    cfg = replace(SMALL, label_smoothing=0.1)
    batch = drawn_batch(cfg) | {"weights": jnp.zeros((4, 9))}
    (found, sums), grads = loss_and_grads(draw(seq2seq.declare(cfg)), batch, cfg)
    assert (found, sums["weight"]) == (0, 0)
    assert not any(g.any() for g in jax.tree.leaves(grads))


def test_a_source_of_padding_alone_gives_finite_logits_and_gradients():
    params, batch = draw(seq2seq.declare(SMALL)), drawn_batch(SMALL)
    batch["source_mask"] = SOURCE_MASK.at[1].set(False)
    (found, _), grads = loss_and_grads(params, batch, SMALL)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves((found, grads)))


@pytest.mark.parametrize("norm_position", few(["pre", "post"]))
def test_dropout_acts_on_a_key_alone_in_both_stacks(norm_position):
    cfg = replace(SMALL, dropout=0.2, norm_position=norm_position)
    params, batch = draw(seq2seq.declare(cfg)), drawn_batch(cfg)
    seeds = ((cfg, 0), (cfg, 0), (cfg, 1), (cfg, None), (replace(cfg, dropout=0.0), None))
    first, again, other, none, without = (
        float(loss(params, batch, c, key=None if seed is None else jax.random.key(seed))[0]) for c, seed in seeds
    )
    assert first == again
    assert none == without
    assert len({first, other, none}) == 3
    source, target = batch["source"], batch["inputs"]
    states = [encode(params, source, cfg, key=jax.random.key(seed)) for seed in (0, 1)]
    assert jnp.abs(states[0] - states[1]).max() > 1e-2
    memory = remember(params, encode(params, source, cfg), cfg)
    logits = [decode(params, memory, target, cfg, key=jax.random.key(seed)) for seed in (0, 1)]
    assert jnp.abs(logits[0] - logits[1]).max() > 1e-2


@pytest.mark.parametrize("alive", ["attention", "cross", "mlp"])
def test_dropout_acts_in_every_sublayer_of_the_decoder(alive):
    """Turn the others off by zero output kernels, and the embeddings by a zero table: what is left is random."""
    cfg = replace(SMALL, dropout=0.3, norm_position="pre", position="rotary", tie_embeddings=False)
    params = draw(seq2seq.declare(cfg))
    source, target = drawn_pairs(cfg)
    memory = remember(params, encode(params, source, cfg), cfg)
    layers = params["decoder"]["layers"]
    params["embedding"] = jax.tree.map(jnp.zeros_like, params["embedding"])
    for name, last in (("attention", "output"), ("cross", "output"), ("mlp", "down")):
        if name != alive:
            layers[name][last] = jax.tree.map(jnp.zeros_like, layers[name][last])
    first, second = (decode(params, memory, target, cfg, key=jax.random.key(seed)) for seed in (0, 1))
    assert jnp.abs(first - second).max() > 1e-2


RUNS = {
    "scan": {"scan_layers": True},
    "dots": {"remat": "dots"},
    "scan full": {"scan_layers": True, "remat": "full"},
}


@pytest.mark.thorough
@pytest.mark.parametrize(("kind", "seed"), [("learned pre", 7), ("relative post", None)], ids=["key", "no key"])
def test_every_way_to_run_the_layers_gives_the_same_values_and_gradients(kind, seed):
    cfg, key = replace(KINDS[kind], dropout=0.3), None if seed is None else jax.random.key(seed)
    params, batch = draw(seq2seq.declare(cfg)), drawn_batch(cfg)
    wanted = loss_and_grads(params, batch, cfg, key=key)
    for changes in RUNS.values():
        jax.tree.map(agree, loss_and_grads(params, batch, replace(cfg, **changes), key=key), wanted)


def test_scanned_layers_decode_by_a_cache_as_unrolled_ones():
    cfg = replace(KINDS["rotary pre"], scan_layers=True)
    params, (source, target) = draw(seq2seq.declare(cfg)), drawn_pairs(cfg)
    full = apply(params, source, target, replace(cfg, scan_layers=False))
    memory, cache, found = remember(params, encode(params, source, cfg), cfg), KVCache.empty(cfg, 4), []
    for t in range(9):
        logits, cache = decode(params, memory, target[:, t : t + 1], cfg, cache=cache)
        found.append(logits)
    agree(jnp.concatenate(found, 1), full, 1e-5)


# Divisible by 8 rows, by 4 embed columns, heads, mlp, vocabulary.
CUT = replace(SMALL, vocab_size=28, context_length=18, d_model=20, n_heads=4, n_kv_heads=2, head_dim=6, d_ff=12)
CUBE = MeshConfig(data=2, fsdp=2, tensor=2)


@pytest.mark.parametrize(
    ("mesh", "cfg"),
    few(
        [
            (CUBE, replace(CUT, position="relative", n_encoder_layers=2, label_smoothing=0.1)),
            (MeshConfig(data=8), CUT),
            (MeshConfig(fsdp=8), replace(CUT, d_model=40, scan_layers=True, n_layers=2)),
            (MeshConfig(data=2, tensor=4), replace(CUT, tie_embeddings=False, norm_position="pre")),
            (MeshConfig(data=4, sequence=2), CUT),
        ]
    ),
    ids=["2x2x2", "data=8", "fsdp=8", "2x4", "sequence=2"],
)
def test_eight_devices_compute_what_one_does(mesh, cfg):
    params, rng = draw(seq2seq.declare(cfg)), np.random.default_rng(0)
    batch = {
        "source": rng.integers(0, 28, (8, 14)),
        "source_mask": np.arange(14) < rng.integers(1, 15, (8, 1)),
        "inputs": rng.integers(0, 28, (8, 18)),
        "targets": rng.integers(0, 28, (8, 18)),
        "weights": (np.arange(18) < rng.integers(1, 19, (8, 1))).astype(np.float32),
    }
    (one, _), grads = jax.block_until_ready(loss_and_grads(params, batch, cfg))
    mesh = make_mesh(mesh)
    placed = jax.device_put(params, P.shardings(seq2seq.declare(cfg), mesh))
    with jax.set_mesh(mesh):
        (found, _), cut_grads = jax.block_until_ready(
            loss_and_grads(placed, place(batch, mesh, ("batch", "time")), cfg)
        )
    assert len(found.devices()) == 8
    np.testing.assert_allclose(found, one, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), cut_grads, grads)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"source": jnp.full((4, 11), 23)}, r"source: found the id 23, expected 0\.\.22"),
        ({"source": jnp.full((4, 20), 1)}, r"source: found 20 in a row, expected at most 19"),
        ({"inputs": jnp.full((4, 9), -1)}, r"target: found the id -1, expected 0\.\.22"),
        ({"inputs": jnp.full((4, 20), 1)}, r"target: found 20 in a row, expected at most 19"),
        ({"targets": jnp.full((4, 9), 23)}, r"targets: found the id 23, expected 0\.\.22"),
        ({"mask": jnp.ones((4, 9), bool)}, r"batch: found 'mask', expected one of "),
    ],
)
def test_a_mistake_in_a_batch_is_refused_by_name(changes, words):
    batch = drawn_batch(SMALL)
    del batch["source_mask"]
    with pytest.raises(ValueError, match=f"^{words}"):
        seq2seq.loss(draw(seq2seq.declare(SMALL)), batch | changes, SMALL)


def test_more_tokens_than_the_cache_has_room_for_are_refused():
    params, (source, target) = draw(seq2seq.declare(SMALL)), drawn_pairs(SMALL)
    memory = remember(params, encode(params, source, SMALL), SMALL)
    with pytest.raises(ValueError, match="target: found 9 in a row, expected at most 4"):
        seq2seq.decode(params, memory, target, SMALL, cache=KVCache.empty(SMALL, 4, slots=4))


def test_another_architecture_is_refused():
    with pytest.raises(ValueError, match=r"model\.architecture: found 'decoder', expected encoder-decoder"):
        seq2seq.declare(TINY)


# Every field: a config, another value, and what must then differ, as in tests/test_config.py; "loss": the loss alone.
CHANGES = {
    "architecture": [(SMALL, "encoder", "ValueError"), (SMALL, "decoder", "ValueError")],
    "vocab_size": [(SMALL, 29, "shapes")],
    "context_length": [(SMALL, 31, "shapes"), (ROTARY, 10, "ValueError")],
    "d_model": [(SMALL, 22, "shapes")],
    "n_layers": [(SMALL, 2, "shapes"), (replace(SMALL, n_encoder_layers=1), 2, "shapes")],
    "n_encoder_layers": [(SMALL, 2, "shapes")],
    "n_heads": [(SMALL, 8, "shapes")],
    "n_kv_heads": [(SMALL, 3, "shapes")],
    "head_dim": [(SMALL, 5, "shapes")],
    "d_ff": [(SMALL, 18, "shapes")],
    "norm": [(SMALL, "rms", "shapes"), (replace(SMALL, bias=False), "rms", "loss")],
    "norm_position": [(SMALL, "pre", "shapes")],
    "norm_epsilon": [(SMALL, 1e-2, "loss")],
    "position": [
        (SMALL, "sinusoidal", "shapes"),
        (SMALL, "relative", "shapes"),
        (replace(ROTARY, rope_theta=None), "sinusoidal", "loss"),
    ],
    "position_offset": [(SMALL, 2, "shapes"), (ROTARY, 2, "ValueError")],
    "rope_theta": [(ROTARY, 51.0, "loss")],
    "rope_width": [(ROTARY, 2, "loss")],
    "rope_scaling": [(ROTARY, RopeScaling("linear", 2.0), "loss")],
    "attention_bias": [(SMALL, "inputs", "shapes")],
    "mlp_bias": [(SMALL, False, "shapes")],
    "qk_norm": [(SMALL, True, "shapes")],
    "attention_scale": [(SMALL, 1.0, "loss")],
    "head_bias": [(SMALL, True, "shapes")],
    "logit_scale": [(SMALL, 0.5, "loss")],
    "pooler_activation": [(SMALL, "relu", "ValueError")],
    "relative_buckets": [(RELATIVE, 8, "shapes")],
    "relative_max_distance": [(RELATIVE, 17, "loss")],
    "window": [(cfg, 7, "loss") for cfg in (SMALL, ROTARY, RELATIVE)],
    "activation": [(SMALL, name, "loss") for name in ("gelu", "relu", "silu")],
    "gated": [(SMALL, True, "shapes")],
    "bias": [(SMALL, False, "shapes")],
    "n_segments": [(SMALL, 2, "ValueError")],
    "embedding_norm": [(SMALL, True, "shapes")],
    "embedding_scale": [(SMALL, True, "loss")],
    "tie_embeddings": [(SMALL, False, "shapes")],
    "head": [(SMALL, "none", "ValueError"), (SMALL, "pretraining", "ValueError")],
    "n_classes": [(SMALL, 2, "ValueError")],
    "dropout": [(SMALL, 0.1, "loss with dropout")],
    "label_smoothing": [(SMALL, 0.1, "loss")],
    "init_std": [(SMALL, 0.03, "values")],
    "dtype": [(SMALL, "bfloat16", "loss"), (ROTARY, "float16", "loss")],
    "attention": [(SMALL, "cudnn", "ValueError"), (SMALL, "splash", "ValueError")],
    "scan_layers": [(replace(SMALL, n_layers=2), True, "program")],
    "remat": [(SMALL, "dots", "program"), (SMALL, "full", "program")],
}


def program(cfg: ModelConfig) -> str:
    """The traced loss and gradients as text, without memory addresses."""
    gradients = jax.value_and_grad(lambda p: seq2seq.loss(p, drawn_batch(cfg), cfg)[0])
    return re.sub(r"0x[0-9a-f]+", "", str(jax.make_jaxpr(gradients)(draw(seq2seq.declare(cfg)))))


def build_and_lose(base: ModelConfig, batch: dict, **changes):
    cfg = replace(base, **changes)
    return seq2seq.loss(draw(seq2seq.declare(cfg)), batch, cfg)


@pytest.mark.thorough
@pytest.mark.parametrize("field", [field.name for field in fields(ModelConfig)])
def test_changing_any_field_changes_parameters_or_loss_or_the_program(field):
    for base, value, effect in CHANGES[field]:  # KeyError: a new field needs a case here
        assert getattr(base, field) != value
        params, batch = draw(seq2seq.declare(base)), drawn_batch(base)
        if effect == "ValueError":
            with pytest.raises(ValueError, match=rf"model\.{field}|source: found 11 in a row, expected at most 10"):
                build_and_lose(base, batch, **{field: value})
            continue
        changed = replace(base, **{field: value})
        shapes = [jax.tree.map(lambda p: p.shape, seq2seq.declare(cfg)) for cfg in (base, changed)]
        assert (shapes[0] != shapes[1]) == (effect == "shapes")
        if effect == "values":
            inits = [jax.tree.leaves(seq2seq.init(jax.random.key(0), cfg)) for cfg in (base, changed)]
            assert any((a != b).any() for a, b in zip(*inits, strict=True))
        if effect.startswith("loss"):
            first, second = (float(loss(params, batch, cfg)[0]) for cfg in (base, changed))
            if effect == "loss with dropout":
                assert first == second
                first, second = (float(loss(params, batch, cfg, key=jax.random.key(3))[0]) for cfg in (base, changed))
            assert np.isfinite(second)
            assert abs(first - second) > 1e-5
        if effect == "program":
            jax.tree.map(agree, *(loss_and_grads(params, batch, cfg) for cfg in (base, changed)))
            assert program(base) == program(replace(base))
            assert program(base) != program(changed)
