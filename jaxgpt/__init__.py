"""Language models as pure JAX functions.

Models are plain functions of `(params, inputs, config)`: see `jaxgpt.gpt`. What most programs need is at the top:
`load` a trained model (and `save` it), `generate` or `stream` text from it, `translate` with it, `fill_mask` in a text,
`embed_texts` as vectors, `classify_texts`; `pipeline` has the conventions of transformers.
"""

import importlib

_HOMES = {
    "Model": "model",
    "classify_texts": "classification",
    "embed_texts": "vectors",
    "fill_mask": "filling",
    "generate": "generation",
    "load": "loading",
    "pipeline": "pipelines",
    "save": "loading",
    "stream": "generation",
    "translate": "translation",
}

__all__ = [
    "Model",
    "classify_texts",
    "embed_texts",
    "fill_mask",
    "generate",
    "load",
    "pipeline",
    "save",
    "stream",
    "translate",
]


def __getattr__(name: str):
    # On first use: `import jaxgpt.config` in a config file or a command line should cost nothing.
    if name in _HOMES:
        return getattr(importlib.import_module(f"jaxgpt.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'jaxgpt' has no attribute {name!r}")
