"""What is read of a config.json, and what is refused there."""

import json

import pytest

from jaxgpt.pretrained import fields
from jaxgpt.pretrained.fields import Fields, read_fields


def make(**values):
    return Fields({"model_type": "llama", **values}, "config.json")


def test_what_is_read_is_what_stands_there():
    found = make(hidden_size=64, eps=1, sliding_window=None, hidden_act="silu", eos_token_id=[1, 2], bias=False)
    assert found.get("hidden_size", 4096) == 64
    assert found.get("eps", 1e-6) == 1  # an integer is a number
    assert found.get("sliding_window", None, int) is None
    assert found.get("hidden_act", "gelu") == "silu"
    assert found.get("eos_token_id", None, int | list) == [1, 2]
    assert found.get("bias", True) is False
    assert found.get("n_layers", 32) == 32
    assert found.get("n_inner", None, int) is None
    assert "bias" in found
    assert "n_layers" not in found
    found.finish()


@pytest.mark.parametrize(
    ("value", "default", "kind", "expected"),
    [
        ("64", 4096, None, "an integer"),
        (64.5, 4096, None, "an integer"),
        (True, 4096, None, "an integer"),
        (None, 4096, None, "an integer"),
        ("1e-5", 1e-6, None, "a number"),
        (True, 1e-6, None, "a number"),
        (1, False, None, "True or False"),
        (1, "silu", None, "a string"),
        ([], None, dict, "an object"),
        ("4096", None, int, "an integer"),
        ("2", None, int | list, "an integer or a list"),
    ],
)
def test_another_type_is_refused_by_name(value, default, kind, expected):
    with pytest.raises(ValueError, match=rf"^config\.json: field: found .*, expected {expected}$"):
        make(field=value).get("field", default, kind)


def test_an_expected_value_may_be_absent():
    make().expect("attention_bias", False)
    make(pretraining_tp=1).expect("pretraining_tp", 0, 1)
    make(rope_scaling=None).expect("rope_scaling", None)


@pytest.mark.parametrize(
    ("value", "allowed"), [(2, (0, 1)), (None, (1,)), (True, (1,)), (0, (False,)), ("x", ("y", None))]
)
def test_another_value_is_refused_by_name(value, allowed):
    expected = " or ".join(map(repr, allowed))
    with pytest.raises(ValueError, match=rf"^config\.json: field: found {value!r}, expected {expected}$"):
        make(field=value).expect("field", *allowed)


def test_a_name_stands_for_what_the_family_means_by_it():
    names = {"gelu": "gelu", "gelu_new": "gelu_tanh"}
    assert make(act="gelu_new").choose("act", names, "gelu") == "gelu_tanh"
    assert make().choose("act", names, "gelu") == "gelu"
    with pytest.raises(ValueError, match=r"^config\.json: act: found 'gelu_neu', expected one of .*nearest: gelu_new"):
        make(act="gelu_neu").choose("act", names, "gelu")


def test_a_check_names_the_field_and_what_it_says():
    make(layers=3).check("layers", True, "more")
    with pytest.raises(ValueError, match=r"^config\.json: layers: found 3, expected more$"):
        make(layers=3).check("layers", False, "more")


def test_an_ignored_field_may_say_anything():
    found = make(summary_type="x")
    found.ignore("summary_type", "summary_activation")
    found.finish()


def test_a_field_that_nobody_read_is_refused_by_name():
    found = make(rope_theta=5e5, rope_thetta=1e6)
    found.get("rope_theta", 1e4)
    with pytest.raises(
        ValueError, match=r"^config\.json: rope_thetta: found 1000000\.0, expected .*: llama reads none$"
    ):
        found.finish()


def test_fields_that_change_no_number_need_not_be_read():
    make(
        architectures=["LlamaForCausalLM"], torch_dtype="bfloat16", auto_map={"AutoModel": "x.y"}, num_beams=4
    ).finish()


DEFAULTS = {
    "add_cross_attention": False,
    "is_decoder": False,
    "is_encoder_decoder": False,
    "tie_encoder_decoder": False,
    "pruned_heads": {},
    "quantization_config": None,
    "problem_type": "single_label_classification",
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_fields_of_every_family_are_refused_off_their_defaults(name):
    make(**{name: DEFAULTS[name]}).finish()
    with pytest.raises(ValueError, match=f"{name}: found {{'0': 1}}, expected "):
        make(**{name: {"0": 1}}).finish()
    found = make(**{name: {"0": 1}})
    found.get(name, None, dict)  # a family that reads it knows better
    found.finish()


def test_an_object_within_is_read_likewise():
    found = make(rope_scaling={"rope_type": "linear", "factor": 2.0, "dtype": "float16"})
    section = found.section("rope_scaling")
    assert section.get("rope_type", "default") == "linear"
    with pytest.raises(ValueError, match=r"^config\.json: rope_scaling: factor: found 2\.0, expected an integer$"):
        section.get("factor", 1)
    with pytest.raises(ValueError, match=r"rope_scaling: dtype: found 'float16', expected one of factor, rope_type$"):
        section.finish()  # here nothing is known to be harmless
    found.finish()
    assert make().section("rope_scaling") is None
    assert make(rope_scaling=None).section("rope_scaling") is None


def test_a_file_is_read_or_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"found no config\.json"):
        read_fields(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_embd": 8}))
    found = read_fields(tmp_path)
    assert found.get("n_embd", 768) == 8
    with pytest.raises(ValueError, match=f"{tmp_path / 'config.json'}: model_type: found 'gpt2', expected 'llama'"):
        found.expect("model_type", "llama")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=f"{tmp_path / 'config.json'}: found bad JSON"):
        read_fields(tmp_path)


# transformers' word on what any config holds


def test_what_transformers_writes_for_every_model_passes():
    transformers = pytest.importorskip("transformers")
    make(**transformers.PreTrainedConfig(architectures=["X"], dtype="float32").to_dict()).finish()


def test_generation_settings_of_old_configs_pass():
    generation = pytest.importorskip("transformers").GenerationConfig._get_default_generation_params()
    make(**generation).finish()


FAMILIES = ["GPT2", "Llama", "Mistral", "Qwen2", "Qwen3", "Phi3", "Bert", "Roberta", "DistilBert", "Marian", "T5"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_must_read_its_own_fields(family):
    """All but tokens, the cache and initialisers; a field of its own that passed unread could change its numbers."""
    transformers = pytest.importorskip("transformers")
    own = getattr(transformers, f"{family}Config")().to_dict().keys() - transformers.PreTrainedConfig().to_dict().keys()
    ids = {f"{token}_token_id" for token in ("bos", "eos", "pad", "decoder_start", "forced_eos")}
    assert own & fields._HARMLESS <= ids | {"use_cache", "initializer_range", "initializer_factor", "init_std"}
    assert len(own - fields._HARMLESS) > 8
