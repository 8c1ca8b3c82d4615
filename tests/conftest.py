"""Before JAX starts: eight simulated CPU devices, and every shape annotation of the package checked at run time."""

import gc
import os
from importlib.metadata import version
from pathlib import Path

# Nearly all of the tests' time was the compiler's. Programs without its optimizations take a tenth (jaxlib 0.10) or a
# third of the time. XLA_FLAGS of the environment go last, so that --xla_backend_optimization_level=3 has them back.
os.environ["XLA_FLAGS"] = " ".join([
    "--xla_force_host_platform_device_count=8",
    "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1",
    "--xla_cpu_use_fusion_emitters=false" * version("jaxlib").startswith("0.10."),  # later ones have no other emitters
    os.environ.get("XLA_FLAGS", ""),
])  # fmt: skip
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # where there is a GPU too: tests/test_gpu.py says how it is tested

import jax
import pytest
from jaxtyping import install_import_hook

install_import_hook("jaxgpt", "beartype.beartype")

gc.set_threshold(200_000, 20, 100)  # tracing makes millions of objects that stay: a fifteenth of the time

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


LONG = ("test_plan", "test_train", "test_seq2seq", "test_exported_runs", "test_train_objectives", "test_multiprocess")


def pytest_collection_modifyitems(items):
    """The longest files first: of several workers none is left with one when the others are done."""
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONG)))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data and checkpoints beside the checkout; tests that need it skip without it."""
    if not SHARED.is_dir():
        pytest.skip(f"no real data: {SHARED} is missing")
    return SHARED


@pytest.fixture(scope="module", autouse=True)
def no_programs_of_other_modules():
    """Each compiled program holds memory maps, of which Linux gives a process 65,530: a long run would crash."""
    yield
    jax.clear_caches()
