"""The directions of the package's imports, read from its files."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "jaxgpt"
FILES = {".".join(p.relative_to(PACKAGE.parent).with_suffix("").parts): p for p in sorted(PACKAGE.rglob("*.py"))}

# A module imports from rows above its own, or of its own package. A new module needs a place here.
ROWS = [
    ["checks"],
    ["config", "sharding"],
    ["params"],
    ["feedforward", "kernels", "losses", "rotary"],
    ["embeddings"],
    ["attention"],
    ["stack"],
    ["encoder", "decoder"],
    ["gpt", "bert", "seq2seq"],
    ["tokenizers"],
    ["data"],
    ["bars", "sampling"],
    ["beam", "decoding"],
    ["model", "rows", "prompting"],
    ["generation", "translation", "filling", "scoring", "vectors", "classification"],
    ["inspection"],
    ["pictures"],
    ["pretrained"],
    ["finetuning"],
    ["training"],
    ["loading"],
    ["comparison"],
    ["pipelines"],
    ["chat", "evaluation"],
    ["__main__"],
]
ROW = {name: i for i, row in enumerate(ROWS) for name in row}


def imports(path: Path) -> set[str]:
    """Every module a file imports, at its top or within a function; `from jaxgpt import gpt` is "jaxgpt.gpt"."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{name.name}" for name in node.names}
    return found


def inside(path: Path) -> set[str]:
    """The parts of jaxgpt a file imports: "gpt", "training", ... ("jaxgpt" alone: what `__getattr__` loads there)."""
    return {name.split(".")[1] for name in imports(path) if name.startswith("jaxgpt.")}


@pytest.mark.parametrize("module", [module for module in FILES if module != "jaxgpt.__init__"])
def test_imports_point_one_way(module):
    part = module.split(".")[1]
    assert part in ROW, f"give {part!r} a row in ROWS"
    for other in inside(FILES[module]) - {part}:
        assert ROW[other] < ROW[part], f"{module} imports {other}, of a row that is not above its own"


def test_the_package_itself_imports_nothing_until_asked():
    assert imports(FILES["jaxgpt.__init__"]) <= {"importlib"}


def test_tokenizers_and_data_know_nothing_of_models():
    for module, path in FILES.items():
        if module.startswith("jaxgpt.tokenizers"):
            assert inside(path) <= {"checks", "tokenizers"}, module
        if module.startswith("jaxgpt.data"):
            assert inside(path) <= {"checks", "data", "tokenizers"}, module


def test_models_import_arrays_and_nothing_else():
    """No files, no devices, no command line: the standard library's plain parts, jax, flax, optax, jaxtyping."""
    plain = {"collections", "dataclasses", "difflib", "functools", "math", "types", "typing", "zlib"}
    plain |= {"flax", "jax", "jaxgpt", "jaxtyping"}
    for name in (name for row in ROWS[: ROW["gpt"] + 1] for name in row):
        if (path := FILES.get(f"jaxgpt.{name}")) is not None:
            used = {other.split(".")[0] for other in imports(path)}
            assert used <= plain | {"numpy", "optax"}, name


@pytest.mark.parametrize("module", FILES)
def test_nothing_private_retired_or_foreign_is_imported(module):
    used = imports(FILES[module])
    if module == "jaxgpt.comparison":  # with torch is what it compares
        used -= {"torch"}
    for name in ("jax._src", "flax.nnx", "pickle", "torch", "jax.experimental.shard_map", "jax.experimental.pjit"):
        assert not any(f"{other}.".startswith(f"{name}.") for other in used), f"{module} imports {name}"


@pytest.mark.parametrize("module", ["jaxgpt", "jaxgpt.config", "jaxgpt.gpt"])
def test_importing_it_is_cheap(module):
    heavy = "matplotlib", "orbax", "tokenizers", "tensorboardX", "torch", "transformers", "grain", "tyro"
    code = f"import sys, {module}; print(*sorted({{m.split('.')[0] for m in sys.modules}} & set({heavy!r})))"
    run = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    assert run.stdout.split() == []
