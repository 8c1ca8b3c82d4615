"""LoRA as a transformation of parameters: what it declares, adds, takes away again, and how it is differentiated."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from numpy.testing import assert_allclose, assert_array_equal
from tiers import few
from tiny import TINY, draw, draw_tokens, unchecked

from jaxgpt import bert, gpt, seq2seq
from jaxgpt import params as P
from jaxgpt.config import ModelConfig
from jaxgpt.finetuning import lora
from jaxgpt.finetuning.lora import LoRAConfig
from jaxgpt.model import by_layer, declarations, prepare
from jaxgpt.sharding import MeshConfig, make_mesh

ENCODER = replace(TINY, architecture="encoder", n_kv_heads=None, head="sequence", n_classes=5)
PAIR = replace(TINY, architecture="encoder-decoder", n_kv_heads=None, n_encoder_layers=2, gated=True)
CFG = LoRAConfig(rank=3, alpha=5.0, targets=("query", "attention/output", "mlp/down"))
TOKENS = draw_tokens(TINY, 2, 7)


def forward(params, cfg: ModelConfig):
    if cfg.architecture == "decoder":
        return gpt.apply(params, TOKENS, cfg)
    if cfg.architecture == "encoder":
        return bert.classify(params, TOKENS, cfg)
    return seq2seq.apply(params, TOKENS, TOKENS[:, :5], cfg)


def drawn(cfg: ModelConfig, config: LoRAConfig = CFG):
    """Parameters and an adapter of which no matrix is zero."""
    return draw(declarations(cfg)), draw(lora.declare(declarations(cfg), config), seed=2)


def shapes(tree):
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x.shape for path, x in leaves(tree)}


def leaves(tree):
    return jax.tree_util.tree_leaves_with_path(tree)


def test_an_adapter_has_a_thin_pair_beside_each_target():
    declared = lora.declare(declarations(TINY), CFG)
    layers, d, heads, width, hidden, rank = 3, 14, 6, 4, 17, 3
    assert shapes(declared) == {
        "layers/attention/query/a": (layers, d, rank),
        "layers/attention/query/b": (layers, rank, heads, width),
        "layers/attention/output/a": (layers, heads, width, rank),
        "layers/attention/output/b": (layers, rank, d),
        "layers/mlp/down/a": (layers, hidden, rank),
        "layers/mlp/down/b": (layers, rank, d),
    }
    output = declared["layers"]["attention"]["output"]
    assert output["a"].axes == ("layers", "heads", "head_dim", None)
    assert output["b"].axes == ("layers", None, "embed")


@pytest.mark.parametrize(
    ("target", "paths"),
    [
        ("query", {f"{place}/query" for place in ("encoder/layers/attention", "decoder/layers/attention")}),
        ("mlp/up", {"encoder/layers/mlp/up", "decoder/layers/mlp/up"}),
        ("decoder/*/value", {"decoder/layers/attention/value"}),
        ("encoder/layers/mlp", {f"encoder/layers/mlp/{name}" for name in ("up", "gate", "down")}),
    ],
)
def test_targets_are_parts_of_paths(target, paths):
    paths |= {path.replace("attention", "cross") for path in paths if "decoder" in path}
    found = shapes(lora.declare(declarations(PAIR), LoRAConfig(targets=(target,))))
    assert {path.rpartition("/")[0] for path in found} == paths


def test_the_classifier_is_a_target_where_it_is_named():
    found = shapes(lora.declare(declarations(ENCODER), LoRAConfig(rank=2, targets=("pooler",))))
    assert found == {"pooler/a": (14, 2), "pooler/b": (2, 14)}


def test_a_starts_as_in_peft_and_b_at_zero():
    """Kaiming's uniform draw with a = sqrt(5) is one within 1 / sqrt(inputs), of variance 1 / (3 inputs)."""
    declared = lora.declare(declarations(TINY), replace(CFG, rank=200))
    drawn = P.init(jax.random.key(0), declared)["layers"]["attention"]
    for name, inputs in (("query", 14), ("output", 24)):
        a = np.asarray(drawn[name]["a"], np.float64)
        assert 0.99 / inputs**0.5 < abs(a).max() <= 1 / inputs**0.5
        assert_allclose(a.var(), 1 / (3 * inputs), rtol=0.03)
        assert abs(a.mean()) < 0.01
        assert not drawn[name]["b"].any()


@pytest.mark.parametrize("cfg", few([TINY, ENCODER, PAIR]), ids=lambda cfg: cfg.architecture)
def test_at_first_the_outputs_are_the_bases_bit_for_bit(cfg):
    params = draw(declarations(cfg))
    adapter = P.init(jax.random.key(1), lora.declare(declarations(cfg), CFG))
    base = jax.jit(lambda params: forward(params, cfg))(params)
    adapted = jax.jit(lambda params, adapter: forward(lora.adapt(params, adapter, CFG), cfg))(params, adapter)
    assert_array_equal(adapted, base)


@pytest.mark.parametrize("cfg", [TINY, ENCODER, PAIR], ids=lambda cfg: cfg.architecture)
def test_what_is_added_is_the_scaled_product_in_float64(cfg):
    params, adapter = drawn(cfg)
    found = dict(leaves(lora.adapt(params, adapter, CFG)))
    pairs = {path[:-1]: x for path, x in leaves(adapter) if path[-1].key == "a"}
    b = dict(leaves(adapter))
    for path, x in leaves(params):
        change = 0.0
        if path[-1].key == "kernel" and path[:-1] in pairs:
            of_a = np.asarray(pairs.pop(path[:-1]), np.float64)
            of_b = np.asarray(b[*path[:-1], jax.tree_util.DictKey("b")], np.float64)
            letters = (
                "lhkr,lrd->lhkd" if path[-2].key == "output" else "ldr,lrhk->ldhk" if x.ndim == 4 else "lir,lro->lio"
            )
            change = 5 / 3 * np.einsum(letters, of_a, of_b)
            assert abs(change).max() > 0.1
        assert_allclose(found[path], x + change, rtol=0, atol=1e-6)
    assert not pairs


def test_merged_equals_adapted_within_a_program_and_unmerges():
    params, adapter = drawn(TINY)
    merged = lora.adapt(params, adapter, CFG)
    within = jax.jit(lambda params, adapter: forward(lora.adapt(params, adapter, CFG), TINY))(params, adapter)
    outside = jax.jit(lambda params: forward(params, TINY))(merged)
    assert abs(outside - forward(params, TINY)).max() > 0.1
    assert_allclose(within, outside, atol=1e-6 * abs(outside).max())
    back = lora.unmerge(merged, adapter, CFG)
    jax.tree.map(lambda x, y: assert_allclose(x, y, rtol=0, atol=1e-6), back, params)


@pytest.mark.parametrize("cfg", [TINY, PAIR], ids=lambda cfg: cfg.architecture)
def test_one_tree_a_layer_is_the_stack(cfg):
    params, adapter = drawn(cfg)
    merged = lora.adapt(params, adapter, CFG)
    apart = lora.adapt(by_layer(params, "float32"), adapter, CFG)
    jax.tree.map(assert_array_equal, apart, by_layer(merged, "float32"))
    jax.tree.map(
        assert_array_equal, lora.unmerge(apart, adapter, CFG), by_layer(lora.unmerge(merged, adapter, CFG), "float32")
    )


def test_gradients_are_the_merged_kernels_through_the_product():
    """dL/da = scale dL/dW b', dL/db = scale a' dL/dW (in float64), dL/dW being that of the merged model."""
    params, adapter = drawn(TINY)
    batch = {"inputs": TOKENS[:, :-1], "targets": TOKENS[:, 1:]}

    def loss(params):
        return gpt.loss(params, batch, TINY)[0]

    by_adapter = jax.jit(jax.grad(lambda adapter: loss(lora.adapt(params, adapter, CFG))))(adapter)
    by_kernel = jax.jit(jax.grad(loss))(lora.adapt(params, adapter, CFG))
    for path, (inputs, outputs) in {
        ("attention", "query"): ("i", "hk"), ("attention", "output"): ("hk", "o"), ("mlp", "down"): ("i", "o"),
    }.items():  # fmt: skip
        found, pair, kernel = (np_tree(tree["layers"][path[0]][path[1]]) for tree in (by_adapter, adapter, by_kernel))
        letters = f"l{inputs}{outputs},lr{outputs}->l{inputs}r"
        expected = 5 / 3 * np.einsum(letters, kernel["kernel"], pair["b"])
        assert_allclose(found["a"], expected, rtol=0, atol=1e-6 * abs(expected).max())
        letters = f"l{inputs}{outputs},l{inputs}r->lr{outputs}"
        expected = 5 / 3 * np.einsum(letters, kernel["kernel"], pair["a"])
        assert_allclose(found["b"], expected, rtol=0, atol=1e-6 * abs(expected).max())


def np_tree(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def test_the_base_gets_no_array_of_its_own():
    params, adapter = drawn(TINY)
    merged = lora.adapt(params, adapter, CFG)
    assert merged["embedding"]["token"] is params["embedding"]["token"]
    assert merged["layers"]["attention"]["key"]["kernel"] is params["layers"]["attention"]["key"]["kernel"]
    assert merged["layers"]["attention"]["query"]["bias"] is params["layers"]["attention"]["query"]["bias"]


def test_parts_on_devices_are_the_whole():
    mesh = make_mesh(MeshConfig(fsdp=2, tensor=2), jax.devices()[:4])
    cfg = replace(TINY, n_kv_heads=None)
    whole = drawn(cfg)
    declared = declarations(cfg)
    placed = P.shardings(declared, mesh), P.shardings(lora.declare(declared, CFG), mesh)
    parts = jax.tree.map(jax.device_put, whole, placed)
    assert parts[1]["layers"]["attention"]["query"]["b"].sharding.spec == PartitionSpec(None, None, "tensor", None)
    found = jax.jit(lambda params, adapter: lora.adapt(params, adapter, CFG))(*parts)
    jax.tree.map(lambda x, y: assert_allclose(x, y, rtol=0, atol=1e-6), found, lora.adapt(*whole, CFG))


def test_a_kernel_keeps_its_dtype():
    params, adapter = drawn(TINY)
    half = lora.adapt(P.cast(params, "bfloat16"), adapter, CFG)
    whole = lora.adapt(P.cast(P.cast(params, "bfloat16"), "float32"), adapter, CFG)
    jax.tree.map(assert_array_equal, half, P.cast(whole, "bfloat16"))


def test_dropout_takes_rows_of_a_and_keeps_their_mean():
    config = replace(CFG, dropout=0.25)
    params, adapter = drawn(TINY, config)
    params = jax.tree.map(jnp.zeros_like, params)
    full = lora.adapt(params, adapter, config)["layers"]
    once = lora.adapt(params, adapter, config, key=jax.random.key(3))["layers"]
    kept = []
    for place in (("attention", "query"), ("attention", "output"), ("mlp", "down")):
        inputs = 3 if place[1] == "output" else 2
        whole, dropped = (np.asarray(tree[place[0]][place[1]]["kernel"]) for tree in (full, once))
        whole, dropped = (x.reshape(np.prod(x.shape[:inputs]), -1) for x in (whole, dropped))
        kept.append(dropped.any(1))
        assert_allclose(dropped, np.where(kept[-1][:, None], whole / 0.75, 0), rtol=1e-5, atol=1e-6)
    assert 0.65 < np.concatenate(kept).mean() < 0.85
    assert len({tuple(rows[:42]) for rows in kept}) == 3  # of each kernel its own draw
    again = lora.adapt(params, adapter, config, key=jax.random.key(3))["layers"]
    jax.tree.map(assert_array_equal, once, again)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"rank": 0}, "lora.rank: found 0"),
        ({"rank": 2.5}, "lora.rank: found 2.5"),
        ({"alpha": 0.0}, "lora.alpha: found 0.0"),
        ({"dropout": 1.0}, "lora.dropout: found 1.0"),
        ({"targets": ()}, "lora.targets: found ()"),
        ({"targets": "query"}, "lora.targets: found 'query'"),
    ],
)
def test_a_config_that_means_nothing_is_refused(changes, field):
    with pytest.raises(ValueError, match=f"^{field}".replace("(", r"\(").replace(")", r"\)")):
        unchecked(CFG, **changes)


@pytest.mark.parametrize("target", ["q_proj", "query_norm", "quer", "attention_norm", "token", "mlp/gate"])
def test_a_target_that_no_kernel_has_is_refused_with_those_there_are(target):
    with pytest.raises(
        ValueError, match=rf"^lora.targets: found '{target}', expected a part of one of .*attention/query"
    ):
        lora.declare(declarations(TINY), replace(CFG, targets=("query", target)))


def test_an_adapter_of_another_model_is_refused():
    params, _ = drawn(TINY)
    for other, field in (
        (replace(TINY, gated=True), "adapter: layers/mlp: found 'gate', expected one of"),
        (replace(TINY, d_model=12), r"adapter: kernel of layers/mlp/up: found \(3, 12, 17\), expected \(3, 14, 17\)"),
        (replace(TINY, n_layers=2), r"adapter: kernel of layers/mlp/up: found \(2, 14, 17\), expected \(3, 14, 17\)"),
        (PAIR, "adapter: parameters: found 'decoder', expected one of"),
    ):
        config = replace(CFG, targets=("mlp/gate",) if other.gated else ("mlp/up",))
        with pytest.raises(ValueError, match=f"^{field}"):
            lora.adapt(params, drawn(other, config)[1], config)
    _, adapter = drawn(replace(TINY, n_layers=2))
    with pytest.raises(ValueError, match=r"^adapter: layers of layers: found 2, expected 3"):
        lora.adapt(by_layer(params, "float32"), adapter, CFG)


def test_parameters_prepared_to_compute_with_are_refused():
    params, adapter = drawn(TINY)
    with pytest.raises(ValueError, match="expected a kernel"):
        lora.adapt(prepare(params, "float32"), adapter, CFG)
