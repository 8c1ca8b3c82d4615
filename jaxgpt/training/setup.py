"""The process: the others of its run, compiled programs kept on disk, memory kept between steps."""

import contextlib
import ctypes
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

A_DAY = 24 * 60 * 60 * 1000  # milliseconds
MESSAGE_BYTES = 1000


def join_processes() -> None:
    """Be one of several processes, where JAX_COORDINATOR_ADDRESS is set: HOST:PORT of process 0, which alone prints.

    JAX_NUM_PROCESSES and JAX_PROCESS_ID say how many there are and which this is; where JAX knows the cluster (a TPU
    pod, Slurm) it finds both by itself. Has to come before anything else of JAX.
    Raises ValueError, naming the variables, for what can't be right.
    """
    if "JAX_COORDINATOR_ADDRESS" not in os.environ:
        return
    names = {"num_processes": "JAX_NUM_PROCESSES", "process_id": "JAX_PROCESS_ID"}
    try:
        given = {field: int(os.environ[name]) for field, name in names.items() if name in os.environ}
        # A process that fails alone waits so long for the others to end too, before they learn of it.
        jax.distributed.initialize(**given, shutdown_timeout_seconds=10)
    except (ValueError, IndexError) as error:  # IndexError: an address without a port
        found = [f"{name}={os.environ.get(name)}" for name in ("JAX_COORDINATOR_ADDRESS", *names.values())]
        expected = "process 0's HOST:PORT, a number of processes and one of 0 up to it"
        raise ValueError(f"environment: found {', '.join(found)}, expected {expected}") from error
    if jax.process_index() > 0:  # here once, not at every print
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def first_alone() -> Iterator[None]:
    """The body of the `with` runs in process 0, then in the others, which find done what it did.

    An exception in one process ends all: those without one of their own raise ValueError with its message.
    """
    first, error = jax.process_index() == 0, None
    if not first:
        _meet("process 0 is done", None)
    try:
        yield
    except Exception as raised:
        error = raised
    if first:
        _meet("process 0 is done", error)
    _meet("all processes are done", error)


def _meet(where: str, error: Exception | None) -> None:
    """Wait for the other processes. Raises error; where there is none, ValueError with the message of another's."""
    # By the coordinator: a collective of the devices is not made to wait for hours.
    ocp.multihost.get_barrier_sync_fn()(key=where, timeout_ms=A_DAY)
    message = "" if error is None else str(error) or repr(error)
    raw = message.encode()[:MESSAGE_BYTES].ljust(MESSAGE_BYTES)
    told = multihost_utils.process_allgather(np.frombuffer(raw, np.uint8))
    if error is not None:
        raise error
    for other in told:
        if message := other.tobytes().decode(errors="ignore").strip():
            raise ValueError(message)


def keep_compiled_programs() -> None:
    """Keep every compiled program in the user's cache folder, so that the next run starts faster.

    The environment's JAX_COMPILATION_CACHE_DIR goes first.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(home / "jaxgpt" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def keep_memory() -> None:
    """Keep the memory that a step frees, for the next one. Has to come before JAX has threads; needs glibc.

    On a CPU, XLA takes its buffers anew at every dispatch, and glibc gives large ones back to the kernel, which fills
    them with zeros page by page when they come again: a third of the time of a step of all-MiniLM-L6-v2.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(-4, 0)  # M_MMAP_MAX: no buffer is a mapping of its own
    libc.mallopt(-1, -1)  # M_TRIM_THRESHOLD: the end of the heap is never given back
    libc.mallopt(-8, 1)  # M_ARENA_MAX: one heap; those of other threads have at most 64 MB
