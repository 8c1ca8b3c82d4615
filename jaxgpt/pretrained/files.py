"""A folder of safetensors, one file or an index of several: checked whole, read by slices, written whole."""

import json
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jaxgpt.checks import require
from jaxgpt.tokenizers.base import read_object, write_whole

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}  # the format's names, and NumPy's
_ROWS = 4096  # of a matrix compared at once
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


class Found(NamedTuple):
    """What a header says of one tensor."""

    file: Path
    shape: tuple[int, ...]
    dtype: str
    """As the format names it: "F32", "BF16", "I64", ..."""


@dataclass(frozen=True)
class Weights:
    """The tensors of a folder by name; their numbers stay on disk until they are read."""

    folder: Path
    tensors: dict[str, Found]

    def read(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        """The slice of a tensor, one start:stop for each axis, as the file has it. Reads nothing else of the file.

        Raises ValueError for a file that has changed so that it can't be read.
        """
        file = self.tensors[name].file
        try:
            # Opened for each: an open file keeps every page that was ever read in memory. It takes 0.3 ms.
            with safe_open(file, "numpy") as opened:
                return opened.get_slice(name)[index]
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{file}: can't read {name!r} ({error})") from error

    def equal(self, name: str, other: str) -> bool:
        """Whether both are there and hold the same, bit for bit; read some rows at a time."""
        first, second = self.tensors.get(name), self.tensors.get(other)
        if first is None or second is None or first[1:] != second[1:]:
            return False
        rows, *rest = first.shape
        rows = [(slice(i, min(i + _ROWS, rows)), *map(slice, rest)) for i in range(0, rows, _ROWS)]
        return all(self.read(name, index).tobytes() == self.read(other, index).tobytes() for index in rows)


def open_folder(folder: str | Path) -> Weights:
    """The tensors of `model.safetensors`, else of the shards that `model.safetensors.index.json` lists.

    Every header is read and checked: its offsets cover the file without a gap, and a shard holds what the index says.
    Raises FileNotFoundError where there are no weights; ValueError, naming the file, for one that is damaged or
    missing, lies about its contents or is outside the folder, and where all weights are pickles.
    """
    folder = Path(folder)
    if (folder / SINGLE).exists():  # before the index, as transformers does
        return open_file(folder / SINGLE)
    if (folder / INDEX).exists():
        return Weights(folder, _indexed(folder))
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        raise ValueError(
            f"{folder}: found only pickles ({', '.join(pickles[:5])}), which may run any code when opened, expected "
            f"{SINGLE}: load the model with transformers where you trust it, and save_pretrained writes that"
        )
    raise FileNotFoundError(f"{folder}: found no weights, expected {SINGLE} or {INDEX}")


def open_file(file: Path) -> Weights:
    """The tensors of one file of safetensors. Raises ValueError for one that is damaged or missing."""
    return Weights(file.parent, _header(file))


def _indexed(folder: Path) -> dict[str, Found]:
    """The tensors of all shards that the folder's index lists."""
    index = folder / INDEX
    shards = read_object(index).get("weight_map")
    proper = isinstance(shards, dict) and shards and all(isinstance(shard, str) for shard in shards.values())
    require(bool(proper), f"{index}: weight_map", shards, "an object: the file of each tensor")
    files = sorted(set(shards.values()))
    for shard in files:  # the name alone: a cache of the hub holds links to files elsewhere
        inside = not Path(shard).is_absolute() and ".." not in Path(shard).parts
        require(inside, f"{index}: weight_map", shard, "files within its folder")
    found: dict[str, Found] = {}
    for shard in files:
        held = _header(folder / shard)
        listed = {name for name, file in shards.items() if file == shard}
        if lacking := sorted(listed - held.keys()):
            raise ValueError(f"{folder / shard}: found no tensor {lacking[0]!r}, expected it as {INDEX} says")
        if stray := sorted(held.keys() - listed):
            place = f"in {shards[stray[0]]}" if stray[0] in shards else "nowhere"
            raise ValueError(f"{folder / shard}: found the tensor {stray[0]!r}, expected it {place} as {INDEX} says")
        found |= held
    return found


def _header(file: Path) -> dict[str, Found]:
    try:
        with safe_open(file, "numpy") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
            return {name: Found(file, tuple(x.get_shape()), x.get_dtype()) for name, x in slices.items()}
    except FileNotFoundError as error:
        raise ValueError(f"{file}: found no such file, expected the shard that {INDEX} lists") from error
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file}: found a damaged file ({error}), expected safetensors") from error


def write_folder(folder: str | Path, tensors: Iterable[tuple[str, np.ndarray]], *, max_shard_bytes: int) -> None:
    """Write the tensors as `open_folder` and transformers read them: in one file, or in numbered ones and an index.

    tensors: made as they are asked for, so that no more than a shard of them, and the next, is in memory.
    max_shard_bytes: where the next file begins; a larger tensor has a file of its own.
    An earlier save in the folder goes. At every moment until then the folder holds all of it, or all of the new one.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=".model-", dir=folder))
    try:
        shards, size = _write_shards(beside, tensors, max_shard_bytes)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise

    names = {path: f"model-{i:05}-of-{len(shards):05}.safetensors" for i, path in enumerate(shards, 1)}
    if len(shards) == 1:
        names = {}
        next(iter(shards)).replace(folder / SINGLE)  # from here on the new: read before any index
        (folder / INDEX).unlink(missing_ok=True)
    else:
        # The old shards may have the new ones' names. So the index first lists the new ones where they lie beside.
        _write_index(folder, {path: f"{beside.name}/{path.name}" for path in shards}, shards, size)
        (folder / SINGLE).unlink(missing_ok=True)  # from here on the new, where the old was a single file
        for path, name in names.items():
            _link(path, folder / name)
        _write_index(folder, names, shards, size)

    for old in folder.glob("model-?????-of-?????.safetensors"):
        if old.name not in names.values():
            old.unlink()
    for unfinished in folder.glob(".model-*"):
        shutil.rmtree(unfinished)


def _write_shards(
    beside: Path, tensors: Iterable[tuple[str, np.ndarray]], max_shard_bytes: int
) -> tuple[dict[Path, list[str]], int]:
    """The tensor names of each file written, and the bytes of all tensors."""
    shards: dict[Path, list[str]] = {}
    shard: dict[str, np.ndarray] = {}
    seen, total, size = set(), 0, 0

    def flush():
        path = beside / f"{len(shards) + 1}.safetensors"
        path.touch()
        mode = path.stat().st_mode
        save_file(shard, path, {"format": "pt"})  # without it transformers refuses the file
        path.chmod(mode)  # the library lets its owner alone read it
        shards[path] = list(shard)
        shard.clear()

    for name, x in tensors:
        require(name not in seen, f"the tensors of {beside.parent}", name, "each name once")
        seen.add(name)
        x = np.asarray(x, order="C")  # the library writes any other order without a word, and wrong
        if shard and size + x.nbytes > max_shard_bytes:
            flush()
            size = 0
        shard[name] = x
        size += x.nbytes
        total += x.nbytes
    flush()
    return shards, total


def _write_index(folder: Path, names: dict[Path, str], shards: dict[Path, list[str]], size: int) -> None:
    files = {tensor: names[path] for path, held in shards.items() for tensor in held}
    write_whole(folder / INDEX, json.dumps({"metadata": {"total_size": size}, "weight_map": files}, indent=2))


def _link(path: Path, name: Path) -> None:
    """path by a second name, in place of what has it; a copy where the file system knows no links."""
    name.unlink(missing_ok=True)
    try:
        name.hardlink_to(path)
    except OSError:
        shutil.copyfile(path, name)
