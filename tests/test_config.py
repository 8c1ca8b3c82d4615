import re
from dataclasses import FrozenInstanceError, fields, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import SCHEMES, TINY, apply, draw, draw_tokens, loss, loss_and_grads, unchecked

from jaxgpt import bert, config, gpt, kernels
from jaxgpt.config import ModelConfig, RopeScaling
from jaxgpt.model import declarations
from jaxgpt.params import count

ONE_LAYER = {scheme: replace(cfg, n_layers=1) for scheme, cfg in SCHEMES.items()}
LEARNED, SINUSOIDAL, ROTARY, RELATIVE = ONE_LAYER.values()
TWO_LAYERS = replace(TINY, n_layers=2)
ENCODER = replace(LEARNED, architecture="encoder")


@pytest.mark.parametrize(
    ("cfg", "published"),
    [
        (config.gpt1("117M"), 116_534_784),
        (config.gpt2("124M"), 124_439_808),
        (config.gpt2("355M"), 354_823_168),
        (config.gpt2("774M"), 774_030_080),
        (config.gpt2("1558M"), 1_557_611_200),
        (config.llama("7B"), 6_738_415_616),
        (config.llama("13B"), 13_015_864_320),
        (config.llama("70B"), 68_976_648_192),
    ],
)
def test_parameter_counts_are_the_published_ones(cfg, published):
    assert count(gpt.declare(cfg)) == published


@pytest.mark.parametrize(
    ("size", "printed"), [("125M", 125e6), ("350M", 350e6), ("760M", 760e6), ("1.3B", 1.3e9), ("2.7B", 2.7e9)]
)
def test_gpt3_sizes_are_the_printed_ones(size, printed):
    assert count(gpt.declare(config.gpt3(size))) == pytest.approx(printed, rel=0.02)  # 350M is 356M: the widest


@pytest.mark.parametrize("family", ["gpt1", "gpt2", "gpt3", "llama"])
def test_an_unknown_size_is_refused_by_name(family):
    sizes = {"gpt1": "117M", "gpt2": "124M, 355M, 774M, 1558M", "gpt3": "125M", "llama": "7B, 13B, 70B"}[family]
    with pytest.raises(ValueError, match=f"^{family}: found size '8B', expected one of {sizes}"):
        getattr(config, family)("8B")


def test_a_config_is_frozen_and_a_static_argument():
    with pytest.raises(FrozenInstanceError):
        TINY.d_model = 7
    assert hash(TINY) == hash(replace(TINY))
    traces = []
    f = jax.jit(lambda x, cfg: traces.append(cfg) or x * cfg.d_model, static_argnums=1)
    assert (f(2, TINY), f(3, replace(TINY)), f(2, replace(TINY, d_model=30))) == (28, 42, 60)
    assert len(traces) == 2  # equal configs share one program


def test_derived_fields_follow_what_they_derive_from():
    cfg = ModelConfig(d_model=96, n_heads=6)
    assert (cfg.kv_heads, cfg.head_width, cfg.ff_width) == (6, 16, 384)
    wider = replace(cfg, d_model=120, n_heads=5)
    assert (wider.kv_heads, wider.head_width, wider.ff_width) == (5, 24, 480)
    assert replace(wider, gated=True).ff_width == 512  # 8/3 of 120 is 320
    assert replace(config.llama("7B"), d_ff=None).ff_width == 11008
    given = replace(wider, n_kv_heads=1, head_dim=7, d_ff=11)
    assert (given.kv_heads, given.head_width, given.ff_width) == (1, 7, 11)


@pytest.mark.parametrize(
    ("base", "field", "value", "found", "expected"),
    [
        *((TINY, f, 0, 0, "a positive integer") for f in ("vocab_size", "context_length", "d_model", "n_layers")),
        (TINY, "n_heads", -2, -2, "a positive integer"),
        *((TINY, f, 0, 0, "a positive integer or None") for f in ("n_kv_heads", "head_dim", "d_ff", "window")),
        (replace(TINY, head_dim=None, d_model=12), "n_heads", 10, 10, "a divisor of d_model=12 (1, 2, 3, 4, 6, 12)"),
        (TINY, "n_kv_heads", 4, 4, "a divisor of n_heads=6 (1, 2, 3, 6)"),
        (TINY, "n_layers", "3", "3", "an integer"),
        (TINY, "n_layers", 1.5, 1.5, "an integer"),
        (TINY, "n_layers", True, True, "an integer"),
        (TINY, "window", 4.0, 4.0, "an integer or None"),
        (TINY, "bias", 1, 1, "True or False"),
        (TINY, "dropout", "0.1", "0.1", "a number"),
        (TINY, "rope_theta", "1e4", "1e4", "a number or None"),
        (TINY, "dtype", None, None, "one of float32, bfloat16, float16"),
        (TINY, "norm", "batch", "batch", "one of layer, rms"),
        (TINY, "norm_position", "mid", "mid", "one of pre, post"),
        (TINY, "norm_epsilon", 0.0, 0.0, "a number above 0"),
        (TINY, "position", "alibi", "alibi", "one of learned, sinusoidal, sinusoidal_split, rotary"),
        (TINY, "activation", "swish", "swish", "one of gelu, gelu_tanh, relu, silu"),
        (TINY, "label_smoothing", 1.0, 1.0, "a number in [0, 1)"),
        (TINY, "n_segments", -1, -1, "an integer of at least 0"),
        (TINY, "n_segments", 2, 2, "nothing, as only architecture='encoder' reads it"),
        (TINY, "n_encoder_layers", 2, 2, "nothing, as only architecture='encoder-decoder' reads it"),
        (TINY, "head", "none", "none", "lm or sequence, as architecture='decoder'"),
        (TINY, "n_classes", 3, 3, "None, as only head='sequence' or 'token' reads it"),
        (TINY, "dropout", 1.0, 1.0, "a number in [0, 1)"),
        (TINY, "dropout", -0.1, -0.1, "a number in [0, 1)"),
        (TINY, "init_std", -1.0, -1.0, "a number of at least 0"),
        (TINY, "dtype", "float64", "float64", "one of float32, bfloat16, float16"),
        (TINY, "attention", "flash", "flash", "one of auto, xla, cudnn, splash"),
        (TINY, "remat", "all", "all", "one of none, dots, full"),
        (ROTARY, "head_dim", 5, 5, "an even width, as position='rotary'"),
        (ROTARY, "rope_theta", 0.0, 0.0, "a number above 0"),
        (SINUSOIDAL, "d_model", 7, 7, "an even width, as position='sinusoidal'"),
        (TINY, "rope_theta", 1e4, 1e4, "None, as only position='rotary' reads it"),
        (TINY, "rope_width", 2, 2, "None, as only position='rotary' reads it"),
        (ROTARY, "rope_width", 6, 6, "an even number up to head_dim=4"),
        (ROTARY, "rope_width", 3, 3, "an even number up to head_dim=4"),
        (ROTARY, "position_offset", 2, 2, "0, as only position='learned' reads it"),
        (TINY, "attention_scale", 0.0, 0.0, "a number above 0"),
        (TINY, "attention_bias", "query", "query", "one of none, inputs, all or None"),
        (TINY, "pooler_activation", "relu", "relu", "None, as only an encoder with head='pretraining', 'sequence'"),
        (ENCODER, "head_bias", True, True, "nothing, as architecture='encoder' with head='lm' does not read it"),
        (ENCODER, "logit_scale", 0.5, 0.5, "nothing, as architecture='encoder' with head='lm' does not read it"),
        (TINY, "relative_buckets", 32, 32, "None, as only position='relative' reads it"),
        (ROTARY, "relative_max_distance", 128, 128, "None, as only position='relative' reads it"),
        (RELATIVE, "relative_buckets", 3, 3, "an integer of at least 4"),
        (RELATIVE, "relative_max_distance", 3, 3, "more than half of relative_buckets=6"),
        (replace(RELATIVE, relative_max_distance=None), "relative_buckets", 256, None, "more than half of"),
    ],
)
def test_a_mistake_is_refused_with_field_found_and_expected(base, field, value, found, expected):
    named = "relative_max_distance" if value == 256 else field
    with pytest.raises(ValueError, match=re.escape(f"model.{named}: found {found!r}, expected {expected}")):
        unchecked(base, **{field: value})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "linear"}, "factor: found None, expected a value, as kind='linear'"),
        ({"kind": "linear", "factor": 0.0}, "factor: found 0.0, expected numbers above 0"),
        ({"kind": "linear", "factor": 2.0, "original_length": 8}, "original_length: found 8, expected None, as"),
        ({"kind": "ntk"}, "kind: found 'ntk', expected one of linear, llama3, longrope, yarn"),
        ({"kind": "longrope", "short": (1.0, "2")}, "short: found (1.0, '2'), expected a tuple, each a number or None"),
    ],
)
def test_a_scaling_of_rotary_positions_has_the_fields_of_its_kind(values, message):
    with pytest.raises(ValueError, match=re.escape(f"model.rope_scaling.{message}")):
        unchecked(RopeScaling("linear", 2.0), **{"factor": None} | values)


def test_longrope_has_a_factor_for_each_pair():
    scaling = RopeScaling("longrope", original_length=7, short=(1.0,), long=(1.0, 2.0), magnitude=1.0)
    with pytest.raises(ValueError, match=re.escape("rope_scaling.short: found (1.0,), expected 2 numbers, one a pair")):
        replace(ROTARY, rope_scaling=scaling)


# Every field: a config, another value, and what must then differ. "shapes", "values": of the fresh parameters;
# "logits": of one set of drawn parameters; "logits with dropout": the same, given a key; "program": nothing of these,
# only the traced program.
CHANGES = {
    "vocab_size": [(LEARNED, 29, "shapes")],
    "context_length": [(LEARNED, 31, "shapes"), (ROTARY, 18, "ValueError")],
    "d_model": [(LEARNED, 22, "shapes")],
    "n_layers": [(LEARNED, 2, "shapes")],
    "architecture": [(LEARNED, "encoder", "shapes"), (LEARNED, "encoder-decoder", "shapes")],
    "n_encoder_layers": [(replace(LEARNED, architecture="encoder-decoder"), 2, "shapes")],
    "n_segments": [(replace(LEARNED, architecture="encoder"), 2, "shapes")],
    "embedding_norm": [(LEARNED, True, "shapes")],
    "embedding_scale": [(LEARNED, True, "logits")],
    "head": [(replace(LEARNED, architecture="encoder"), head, "shapes") for head in ("pretraining", "pooled", "none")],
    "n_classes": [(replace(LEARNED, architecture="encoder", head="token", n_classes=3), 4, "shapes")],
    "label_smoothing": [(LEARNED, 0.1, "loss")],
    "n_heads": [(LEARNED, 8, "shapes")],
    "n_kv_heads": [(LEARNED, 3, "shapes"), (LEARNED, None, "shapes"), (LEARNED, 1, "shapes")],
    "head_dim": [(LEARNED, 5, "shapes")],
    "d_ff": [(LEARNED, 18, "shapes")],
    "norm": [(LEARNED, "rms", "shapes"), (replace(LEARNED, bias=False), "rms", "logits")],
    "norm_position": [(LEARNED, "post", "shapes")],
    "norm_epsilon": [(LEARNED, 1e-3, "logits"), (ROTARY, 1e-3, "logits"), (RELATIVE, 1e-3, "logits")],
    "position": [
        (LEARNED, "sinusoidal", "shapes"),
        (LEARNED, "relative", "shapes"),
        (SINUSOIDAL, "sinusoidal_split", "logits"),
        (SINUSOIDAL, "rotary", "logits"),
    ],
    "position_offset": [(LEARNED, 2, "shapes")],
    "attention_bias": [(LEARNED, "inputs", "shapes"), (LEARNED, "none", "shapes"), (ROTARY, "all", "shapes")],
    "mlp_bias": [(LEARNED, False, "shapes"), (ROTARY, True, "shapes")],
    "qk_norm": [(ROTARY, True, "shapes")],
    "attention_scale": [(LEARNED, 1.0, "logits")],
    "head_bias": [(LEARNED, True, "shapes")],
    "logit_scale": [(LEARNED, 0.5, "logits")],
    "pooler_activation": [(replace(ENCODER, head="pooled"), "relu", "pooled")],
    "rope_width": [(ROTARY, 2, "logits")],
    "rope_scaling": [(ROTARY, RopeScaling("linear", 2.0), "logits")],
    "rope_theta": [(ROTARY, None, "logits"), (ROTARY, 51.0, "logits")],
    "relative_buckets": [(RELATIVE, 7, "shapes"), (replace(RELATIVE, relative_max_distance=None), None, "shapes")],
    "relative_max_distance": [(RELATIVE, 17, "logits"), (RELATIVE, None, "logits")],
    "window": [(cfg, 18, "logits") for cfg in ONE_LAYER.values()],  # only the last query loses a key
    "activation": [
        (replace(LEARNED, activation="gelu"), "gelu_tanh", "logits"),
        (LEARNED, "relu", "logits"),
        (ROTARY, "silu", "logits"),
    ],
    "gated": [(LEARNED, True, "shapes")],
    "bias": [(LEARNED, False, "shapes"), (replace(LEARNED, norm="rms"), False, "shapes")],
    "tie_embeddings": [(LEARNED, False, "shapes")],
    "dropout": [(LEARNED, 0.1, "logits with dropout")],
    "init_std": [(LEARNED, 0.03, "values")],
    "dtype": [(LEARNED, "bfloat16", "logits"), (ROTARY, "float16", "logits")],
    "attention": [(LEARNED, "cudnn", "ValueError"), (LEARNED, "splash", "ValueError")],  # kernels: see test_kernels.py
    "scan_layers": [(TWO_LAYERS, True, "program")],
    "remat": [(LEARNED, "dots", "program"), (LEARNED, "full", "program")],
}


def program(cfg: ModelConfig) -> str:
    """The traced loss and gradients as text, without memory addresses."""
    batch = {name: draw_tokens(cfg, 2, 19) for name in ("inputs", "targets")}
    text = str(jax.make_jaxpr(jax.value_and_grad(lambda p: gpt.loss(p, batch, cfg)[0]))(draw(gpt.declare(cfg))))
    return re.sub(r"0x[0-9a-f]+", "", text)


def largest_difference(a, b) -> float:
    return max(jax.tree.leaves(jax.tree.map(lambda x, y: float(jnp.abs(x - y).max()), a, b)))


@pytest.mark.parametrize("field", [field.name for field in fields(ModelConfig)])
def test_changing_any_field_changes_parameters_or_logits_or_the_program(field):
    for base, value, effect in CHANGES[field]:  # KeyError: a new field needs a case here
        assert getattr(base, field) != value
        changed = replace(base, **{field: value})
        shapes = [jax.tree.map(lambda p: p.shape, declarations(cfg)) for cfg in (base, changed)]
        assert (shapes[0] != shapes[1]) == (effect == "shapes")
        tokens = draw_tokens(base, 2, 19)
        if effect == "values":
            inits = [jax.tree.leaves(gpt.init(jax.random.key(0), cfg)) for cfg in (base, changed)]
            assert any((a != b).any() for a, b in zip(*inits, strict=True))
        if effect.startswith("logits"):
            params, key = draw(gpt.declare(base)), jax.random.key(3)
            first, second = (apply(params, tokens, cfg) for cfg in (base, changed))
            if effect == "logits with dropout":
                np.testing.assert_array_equal(first, second)
                first, second = (apply(params, tokens, cfg, key=key) for cfg in (base, changed))
            assert jnp.isfinite(second).all()
            assert jnp.abs(first - second).max() > 1e-5
        if effect == "pooled":
            params, states = draw(bert.declare(base)), jnp.ones((1, 1, base.d_model))
            assert jnp.abs(bert.pooled(params, states, base) - bert.pooled(params, states, changed)).max() > 1e-3
        if effect == "loss":
            params, batch = draw(gpt.declare(base)), {"inputs": tokens, "targets": tokens[:, ::-1]}
            assert abs(loss(params, batch, base)[0] - loss(params, batch, changed)[0]) > 1e-3
        if effect == "ValueError":
            with pytest.raises(ValueError, match=r"model.attention|tokens: found 19 in a row, expected at most 18"):
                apply(draw(gpt.declare(base)), tokens, changed)
        if effect == "program":
            params, batch = draw(gpt.declare(base)), {"inputs": tokens, "targets": tokens[:, ::-1]}
            results = [loss_and_grads(params, batch, cfg) for cfg in (base, changed)]
            assert largest_difference(*results) < 1e-6
            assert program(base) == program(replace(base))
            assert program(base) != program(changed)


def test_the_attention_field_chooses_the_program(monkeypatch):
    cfg = replace(TINY, context_length=128, n_layers=1)
    monkeypatch.setattr(kernels, "_platform", lambda: "tpu")

    def traced(attention, length):
        tokens = jax.ShapeDtypeStruct((1, length), jnp.int32)
        params = draw(gpt.declare(cfg))
        return str(jax.make_jaxpr(lambda t: gpt.apply(params, t, replace(cfg, attention=attention)))(tokens))

    assert "pallas_call" in traced("splash", 128)
    assert "pallas_call" in traced("auto", 128)
    assert "pallas_call" not in traced("xla", 128)
    assert "pallas_call" not in traced("auto", 127)
