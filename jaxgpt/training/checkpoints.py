"""Checkpoints by Orbax: saved in the background, checked when restored, damaged ones stepped over."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jaxtyping import Array, PyTree, UInt32
from orbax.checkpoint.checkpoint_managers import preservation_policy

from jaxgpt.training.state import TrainState

NOT_EVALUATED = float("inf")  # the rank of a checkpoint between evaluations: never the best


class _Manager(ocp.CheckpointManager):
    def reached_preemption(self, step: int) -> bool:
        # Orbax asks by steps, train.py by dispatches: JAX would have all processes stop at a number that none asks for.
        return False


class Checkpoints:
    """The checkpoints of a run in `folder`: the newest `keep` and the one of lowest rank."""

    def __init__(self, folder: Path, keep: int = 2, log: Callable[[str], None] = print):
        self._log = log
        self._folder = folder.resolve()  # Orbax fails late, in a thread, on a relative one
        policies = [
            preservation_policy.LatestN(keep),
            preservation_policy.BestN(get_metric_fn=_rank, reverse=True, n=1),
        ]
        options = ocp.CheckpointManagerOptions(
            cleanup_tmp_directories=True,
            best_fn=_rank,
            best_mode="min",
            preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
        )
        self._manager = _Manager(self._folder, options=options)

    def save(self, state: TrainState, data: str, config: dict[str, Any], rank: float = NOT_EVALUATED) -> None:
        """Write the state in the background, its data's identity and config beside it; returns when it may be donated.

        Its step is also its position in the data. rank: lower for better parameters.
        """
        step = int(state.step)
        key = jax.random.key_data(state.key)
        sums = {"params": int(checksum(state.params)), "rest": int(checksum((state.optimizer, key)))}
        run = {"checksum": sums, "key": key.tolist(), "data": data, "config": config}
        run["frozen"] = _frozen(state.frozen)
        items = ocp.args.Composite(
            params=ocp.args.StandardSave(state.params),
            optimizer=ocp.args.StandardSave(state.optimizer),
            run=ocp.args.JsonSave(run),
        )
        if not self._manager.save(step, args=items, metrics={"rank": rank}):
            raise FileExistsError(f"{self._folder}: found a checkpoint of step {step} or later, saved nothing")

    def restore(self, abstract: TrainState, data: str, frozen: PyTree[Array] | None = None) -> TrainState | None:
        """The state of the newest whole checkpoint, placed as `abstract` says; None if there are no checkpoints.

        frozen: the parameters that the run does not train, which are not saved.
        A damaged one is named, set aside as damaged-N and stepped over, so that its step can be saved again.
        Raises ValueError if it learnt from other data than this, or beside other frozen parameters, or if all are
        damaged, or one of several processes finds damage; then none is set aside.
        """
        frozen = frozen or {}
        damaged = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                run = self._manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore()))["run"]
                state = self._read(step, abstract, run) if run["data"] == data else None
            except Exception as error:  # Orbax raises a bare Exception for a truncated file, KeyError for a lost one
                found = f"checkpoint {step} is damaged ({_first_line(error)})"
                if jax.process_count() > 1:  # perhaps in this process's part alone: the others don't step along
                    raise ValueError(f"{found}, expected a whole one, or one process, which steps over it") from error
                self._log(f"{found}: stepping over it")
                damaged.append(step)
                continue
            if state is None:
                raise ValueError(
                    f"data.path: found other tokens than checkpoint {step} of {self._folder} learnt from, expected the "
                    "same text and tokenizer, another --out, or --no-resume to start over"
                )
            if run.get("frozen", 0) != _frozen(frozen):
                raise ValueError(
                    f"init_from: found other parameters than those beside which checkpoint {step} of {self._folder} "
                    "was trained, expected the same"
                )
            for bad in damaged:
                self._set_aside(bad)
            return state.replace(frozen=frozen)
        if damaged:
            raise ValueError(
                f"out: found only damaged checkpoints in {self._folder}, expected a whole one, or --no-resume"
            )
        return None

    def _read(self, step: int, abstract: TrainState, run: dict[str, Any]) -> TrainState:
        items = ocp.args.Composite(
            params=ocp.args.StandardRestore(abstract.params),
            optimizer=ocp.args.StandardRestore(abstract.optimizer),
        )
        found = self._manager.restore(step, args=items)
        key = jnp.array(run["key"], jnp.uint32)
        _verify(found["params"], run["checksum"]["params"])
        _verify((found["optimizer"], key), run["checksum"]["rest"])
        state = TrainState(jnp.array(step), found["params"], found["optimizer"], jax.random.wrap_key_data(key))
        return jax.tree.map(lambda x, s: jax.device_put(x, s.sharding), state, abstract.replace(frozen={}))

    def _set_aside(self, step: int) -> None:
        # Never deleted: what failed may have been this program or its memory, not the file.
        aside = self._folder / f"damaged-{step}"
        shutil.rmtree(aside, ignore_errors=True)
        (self._folder / str(step)).rename(aside)
        self._manager.reload()

    def wait(self) -> None:
        """Until everything is on disk."""
        self._manager.wait_until_finished()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._manager.close()


def restore_params(folder: Path, abstract: PyTree[jax.ShapeDtypeStruct], log=print) -> PyTree[Array]:
    """The parameters alone of the best whole checkpoint (else of the newest). Raises FileNotFoundError for none."""
    folder = folder.resolve()
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: found no such folder, expected the checkpoints of a run")
    with ocp.CheckpointManager(folder) as manager:
        steps = sorted(manager.all_steps(), reverse=True)
        steps.sort(key=lambda step: _saved_rank(manager, step))
        for step in steps:
            try:
                items = ocp.args.Composite(params=ocp.args.StandardRestore(abstract), run=ocp.args.JsonRestore())
                found = manager.restore(step, args=items)
                _verify(found["params"], found["run"]["checksum"]["params"])
                return found["params"]
            except Exception as error:
                log(f"checkpoint {step} can't be read ({_first_line(error)}): stepping over it")
    raise FileNotFoundError(f"{folder}: found no whole checkpoint")


def _frozen(tree: PyTree[Array]) -> int:
    return int(checksum(tree)) if tree else 0


def _verify(tree: PyTree[Array], saved: int) -> None:
    if int(checksum(tree)) != saved:
        raise ValueError("its bits have changed since it was saved")


@jax.jit
def checksum(tree: PyTree[Array]) -> UInt32[Array, ""]:
    """A number that any flipped bit of the arrays changes: the sum of their words, each with an odd weight, mod 2^32.

    Integer sums don't depend on their order, so neither does this on how the arrays are sharded.
    """
    total = jnp.uint32(0)
    for i, x in enumerate(jax.tree.leaves(tree)):
        words = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * x.dtype.itemsize}")).astype(jnp.uint32)
        place = jnp.zeros(words.shape, jnp.uint32)
        for axis, size in enumerate(words.shape):
            place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        total += (words * (2 * place + 1)).sum(dtype=jnp.uint32) * jnp.uint32(2 * i + 1)
    return total


def _rank(metrics: dict[str, float]) -> float:
    return metrics["rank"] if "rank" in metrics else metrics["val_loss"]  # before there were other objectives


def _saved_rank(manager: ocp.CheckpointManager, step: int) -> float:
    try:
        return _rank(manager.metrics(step))
    except Exception:
        return NOT_EVALUATED


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
