"""transformers' names for loading, over `jaxgpt.load`, and what their arguments mean in JAX."""

import functools
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxgpt import tokenizers
from jaxgpt.checks import nearest, require
from jaxgpt.loading import load
from jaxgpt.model import Model, by_layer
from jaxgpt.pretrained.hub import find_folder
from jaxgpt.sharding import MeshConfig, make_mesh
from jaxgpt.tokenizers import Tokenizer

# Of from_pretrained: how PyTorch runs a model or reads its files, which changes no number.
_IDLE = ("attn_implementation", "low_cpu_mem_usage", "use_cache", "use_fast", "use_safetensors")
_KNOWN = ("device_map", "dtype", "revision", "torch_dtype", "trust_remote_code", *_IDLE)


class AutoTokenizer:
    """The tokenizer of a checkpoint, by transformers' name for `jaxgpt.tokenizers.load`."""

    @staticmethod
    def from_pretrained(
        name: str | Path, *, trust_remote_code: bool | None = None, revision: str | None = None, **idle: Any
    ) -> Tokenizer:
        """The tokenizer of a folder or of a repository of the hub. See `place` for what else may be given."""
        _understand(trust_remote_code, idle)
        return tokenizers.load(find_folder(name, revision))


class AutoModel:
    """A checkpoint's model, by transformers' name for `jaxgpt.load`."""

    architecture: ClassVar[str | None] = None
    """The only one whose models it gives; None for all."""

    @classmethod
    def from_pretrained(cls, name: str | Path, **options: Any) -> Model:
        """The model of a folder or of a repository of the hub, its tokenizer with it. options: see `place`."""
        model = place(name, **options)
        architecture = model.config.architecture
        expected = f"{cls.architecture}, as {cls.__name__} reads"
        require(cls.architecture in (None, architecture), "model.architecture", architecture, expected)
        return model


class AutoModelForCausalLM(AutoModel):
    """Models that go on with a text."""

    architecture = "decoder"


class AutoModelForSeq2SeqLM(AutoModel):
    """Models that turn a text into another."""

    architecture = "encoder-decoder"


class AutoModelForMaskedLM(AutoModel):
    """Models that fill in blanks."""

    architecture = "encoder"


class AutoModelForSequenceClassification(AutoModel):
    """Models that sort texts into classes."""

    architecture = "encoder"


def place(
    model: str | Path | Model,
    *,
    device: Any = None,
    device_map: Any = None,
    torch_dtype: Any = None,
    dtype: Any = None,
    trust_remote_code: bool | None = None,
    revision: str | None = None,
    **idle: Any,
) -> Model:
    """A model, loaded unless it is, on the device and in the dtype that are asked for.

    device, device_map: two names for one: a platform of JAX's, "cpu", "cuda", "tpu", or one of its devices, "cuda:1";
    -1 for the CPU, 0 for the first device; "auto" or None leaves it to JAX. A model over several devices: `jaxgpt.load`
    with a mesh. torch_dtype, dtype: two names for one: "float32", "bfloat16", "float16", or PyTorch's or NumPy's of
    that name; "auto" or None for the checkpoint's own. trust_remote_code: no code of a checkpoint is ever run, which a
    warning says if it is True. idle: how PyTorch would run the model, which changes nothing here, as a warning says.
    Raises ValueError for any other argument or value.
    """
    _understand(trust_remote_code, idle)
    where = _device(_either(device=device, device_map=device_map))
    kind = _dtype(_either(torch_dtype=torch_dtype, dtype=dtype))
    if not isinstance(model, Model):
        mesh = None if where is None else make_mesh(MeshConfig(), [where])
        return load(model, dtype=kind, mesh=mesh, revision=revision)
    require(revision is None, "revision", revision, "None beside a model that is loaded")
    if where is not None:
        model = replace(model, params=jax.device_put(model.params, where))
    if kind not in (None, model.config.dtype):
        model = replace(model, config=replace(model.config, dtype=kind), params=by_layer(model.params, kind))
    return model


def _either(**names: Any) -> tuple[str, Any]:
    """The one argument of two names that is given, and its name. Raises ValueError for both."""
    (first, one), (second, other) = names.items()
    require(one is None or other is None, second, other, f"None beside {first}={one!r}")
    return (first, one) if other is None else (second, other)


def _device(argument: tuple[str, Any]) -> jax.Device | None:
    """The device that is named, None where it is for JAX to choose."""
    name, found = argument
    if isinstance(found, Mapping) and list(found) == [""]:  # accelerate's: all of the model
        found = found[""]
    if found is None or found == "auto":
        return None
    if isinstance(found, int):
        platform, index = ("cpu", "0") if found < 0 else (jax.default_backend(), str(found))
    else:
        platform, _, index = str(found).partition(":")
    known = sorted({jax.default_backend(), "cpu"})
    try:
        return jax.devices(platform)[int(index or 0)]
    except (RuntimeError, ValueError, IndexError) as error:
        counts = ", ".join(f"{platform} ({jax.device_count(platform)})" for platform in known)
        raise ValueError(f"{name}: found {found!r}, expected 'auto' or a device of {counts}") from error


def _dtype(argument: tuple[str, Any]) -> str | None:
    """The dtype's name, None where it is for the checkpoint to say. `load` refuses what it does not know."""
    name, found = argument
    if found is None or found == "auto":
        return None
    text = str(found).removeprefix("torch.")
    try:
        return jnp.dtype(text if text.isidentifier() else found).name
    except TypeError as error:
        raise ValueError(f"{name}: found {found!r}, expected 'auto', float32, bfloat16 or float16") from error


def _understand(trust_remote_code: bool | None, idle: dict[str, Any]) -> None:
    """Say once what has no effect here. Raises ValueError for an argument of another name."""
    if trust_remote_code:
        _say("trust_remote_code=True: no code of a checkpoint is ever run; its numbers are read, or it is refused")
    for name in idle:
        require(name in _IDLE, name, idle[name], f"no such argument, but {nearest(name, _KNOWN)}")
        _say(f"{name}={idle[name]!r}: that is for PyTorch, and changes nothing here")


@functools.cache
def _say(text: str) -> None:
    warnings.warn(text, stacklevel=4)
