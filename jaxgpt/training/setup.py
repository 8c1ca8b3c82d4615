"""The process: compiled programs kept on disk."""

import os
from pathlib import Path

import jax


def keep_compiled_programs() -> None:
    """Keep every compiled program in the user's cache folder, so that the next run starts faster.

    The environment's JAX_COMPILATION_CACHE_DIR goes first.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(home / "jaxgpt" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
