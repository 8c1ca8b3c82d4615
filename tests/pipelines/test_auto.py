"""transformers' names for loading, and their arguments in JAX's terms."""

import warnings
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import TINY, draw

from jaxgpt import gpt, pipelines, tokenizers
from jaxgpt.model import Model
from jaxgpt.pipelines import auto
from jaxgpt.tokenizers import CharTokenizer

TOKENIZER = CharTokenizer("abcdefghijklmnopqrstuvw")
MODEL = Model(replace(TINY, n_layers=1), draw(gpt.declare(replace(TINY, n_layers=1))), TOKENIZER)


class Torch:
    """Stands for torch.float16: all that is read of it is its name."""

    def __init__(self, name):
        self.name = name

    def __str__(self):
        return f"torch.{self.name}"


@pytest.fixture
def asked(monkeypatch):
    """What load is asked for; it gives MODEL."""
    seen = []
    monkeypatch.setattr(auto, "load", lambda path, **options: seen.append((path, options)) or MODEL)
    auto._say.cache_clear()
    return seen


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        ("auto", None), (None, None), ("float16", "float16"), ("bfloat16", "bfloat16"), (Torch("float16"), "float16"),
        (Torch("bfloat16"), "bfloat16"), (jnp.bfloat16, "bfloat16"), (np.float32, "float32"),
        (np.dtype("float32"), "float32"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["torch_dtype", "dtype"])
def test_a_dtype_by_any_name(asked, name, given, dtype):
    assert pipelines.AutoModelForCausalLM.from_pretrained("x", **{name: given}) is MODEL
    assert asked == [("x", {"dtype": dtype, "mesh": None, "revision": None})]


@pytest.mark.parametrize(
    ("given", "index"), [("cpu", 0), ("cpu:3", 3), (5, 5), (-1, 0), ({"": "cpu:1"}, 1), (Torch("x"), None)]
)
@pytest.mark.parametrize("name", ["device", "device_map"])
def test_a_device_by_any_name(asked, name, given, index):
    if index is None:
        given, index = SimpleNamespace(), None
        with pytest.raises(ValueError, match=rf"{name}: found .*, expected 'auto' or a device of cpu \(8\)"):
            auto.place("x", **{name: given})
        return
    auto.place("x", **{name: given})
    assert asked[0][1]["mesh"].devices.tolist() == [[[[jax.devices()[index]]]]]
    moved = auto.place(MODEL, **{name: given})
    assert {leaf.device for leaf in jax.tree.leaves(moved.params)} == {jax.devices()[index]}


@pytest.mark.parametrize("given", ["auto", None, {"": "auto"}])
def test_the_device_is_for_jax_to_choose_unless_it_is_named(asked, given):
    auto.place("x", device_map=given)
    assert asked[0][1]["mesh"] is None
    assert auto.place(MODEL, device_map=given, dtype="auto") is MODEL


def test_a_loaded_model_becomes_another_in_another_dtype():
    found = auto.place(MODEL, torch_dtype=jnp.bfloat16)
    assert found.config.dtype == "bfloat16"
    assert {leaf.dtype.name for leaf in jax.tree.leaves(found.params)} == {"bfloat16"}
    assert auto.place(MODEL, dtype="float32") is MODEL


def test_a_model_on_another_device_makes_the_same_text():
    options = {"max_new_tokens": 9, "do_sample": False}
    here, there = (pipelines.pipeline("text-generation", MODEL, device=device, **options) for device in (None, "cpu:2"))
    assert here("abc") == there("abc")


def test_no_code_of_a_checkpoint_is_run_which_is_said_once(asked):
    with pytest.warns(UserWarning, match="no code of a checkpoint is ever run"):
        auto.place("x", trust_remote_code=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        auto.place("x", trust_remote_code=True)
        auto.place(MODEL, trust_remote_code=False)


def test_what_is_for_pytorch_alone_is_said_to_change_nothing(asked):
    with pytest.warns(UserWarning, match="attn_implementation='eager': that is for PyTorch, and changes nothing here"):
        pipelines.AutoModelForCausalLM.from_pretrained("x", attn_implementation="eager")
    with pytest.warns(UserWarning, match="low_cpu_mem_usage=True"):
        pipelines.pipeline("text-generation", "x", model_kwargs={"low_cpu_mem_usage": True})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"load_in_4bit": True}, "load_in_4bit: found True, expected no such argument, but one of device_map, dtype"),
        ({"device_map": "cuda"}, r"device_map: found 'cuda', expected 'auto' or a device of cpu \(8\)"),
        ({"device_map": "cpu:8"}, "device_map: found 'cpu:8'"),
        ({"device": 8}, "device: found 8"),
        ({"device": "cpu", "device_map": "auto"}, "device_map: found 'auto', expected None beside device='cpu'"),
        ({"dtype": "float16", "torch_dtype": "float32"}, "dtype: found 'float16', expected None beside torch_dtype"),
        ({"dtype": "flot16"}, "dtype: found 'flot16', expected 'auto', float32"),
        ({"torch_dtype": Torch("float8")}, "torch_dtype: found"),
    ],
)
def test_any_other_argument_is_refused(asked, options, message):
    with pytest.raises(ValueError, match=message):
        auto.place("x", **options)
    assert asked == []


def test_a_revision_is_of_a_repository(asked):
    auto.place("x", revision="v1")
    assert asked[0][1]["revision"] == "v1"
    with pytest.raises(ValueError, match="revision: found 'v1', expected None beside a model that is loaded"):
        auto.place(MODEL, revision="v1")


def test_a_name_reads_its_own_kind_of_model(asked):
    assert pipelines.AutoModel.from_pretrained("x") is MODEL
    for name, expected in (("MaskedLM", "encoder"), ("SequenceClassification", "encoder"), ("Seq2SeqLM", "encoder-")):
        kind = getattr(pipelines, f"AutoModelFor{name}")
        with pytest.raises(ValueError, match=f"architecture: found 'decoder', expected {expected}.*AutoModelFor{name}"):
            kind.from_pretrained("x")


def test_the_tokenizer_is_that_of_the_folder(tmp_path):
    TOKENIZER.save(tmp_path)
    found = pipelines.AutoTokenizer.from_pretrained(tmp_path)
    assert found.encode("cab") == tokenizers.load(tmp_path).encode("cab") == [2, 0, 1]
    with pytest.raises(FileNotFoundError, match="found no folder"):
        pipelines.AutoTokenizer.from_pretrained(tmp_path / "nowhere")
