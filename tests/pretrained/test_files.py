"""Folders of safetensors: what is read, refused and written, and what a death in the midst of writing leaves."""

import json
import os
import pickle
import resource
import shutil
import struct
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxgpt.pretrained import files
from jaxgpt.pretrained.files import FLOATS, INDEX, SINGLE, open_folder, write_folder


def draw(seed=0, n=5):
    rng = np.random.default_rng(seed)
    shapes = {"a.weight": (7, 5), "a.bias": (7,), "b": (3, 5, 2), "scalar": (), "e": (11, 3)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in list(shapes.items())[:n]}


def whole(weights, name):
    return weights.read(name, tuple(slice(0, n) for n in weights.tensors[name].shape))


def contents(folder):
    weights = open_folder(folder)
    return {name: whole(weights, name) for name in weights.tensors}


def same(left, right):
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and np.array_equal(left[name], right[name]) for name in left
    )


def write(folder, tensors, max_shard_bytes=10**9):
    write_folder(folder, tensors.items(), max_shard_bytes=max_shard_bytes)


# reading


@pytest.mark.parametrize("dtype", FLOATS.values())
def test_a_file_of_the_library_is_read_by_slices(tmp_path, dtype):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(7, 5, 3)).astype(jnp.dtype(dtype))
    save_file({"x": x, "other": x[:2]}, tmp_path / SINGLE)
    weights = open_folder(tmp_path)
    file, shape, found = weights.tensors["x"]
    assert (file, shape, FLOATS[found]) == (tmp_path / SINGLE, (7, 5, 3), dtype)
    got = weights.read("x", (slice(2, 6), slice(1, 5), slice(0, 2)))
    assert got.dtype == dtype
    assert np.array_equal(got, x[2:6, 1:5, :2])


def test_what_was_read_does_not_stay_in_memory(tmp_path):
    """Of 64 tensors of a megabyte each, read one after another, the pages of the file are not kept."""
    x = np.ones((1024, 256), np.float32)
    write(tmp_path, {f"{i}": x for i in range(64)})
    weights = open_folder(tmp_path)

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    before = resident()
    for i in range(64):
        assert whole(weights, f"{i}")[-1, -1] == 1
    assert resident() - before < 16 * 2**20


def test_shards_are_found_through_links_as_a_cache_of_the_hub_has_them(tmp_path):
    tensors = draw()
    write(tmp_path / "blobs", tensors, max_shard_bytes=200)
    (tmp_path / "snapshot").mkdir()
    for path in (tmp_path / "blobs").iterdir():
        (tmp_path / "snapshot" / path.name).symlink_to(path)
    assert same(contents(tmp_path / "snapshot"), tensors)


# refusing


def test_a_folder_without_weights_is_missing_them(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected model\.safetensors or model\.safetensors\.index\.json"):
        open_folder(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt"])
def test_pickles_are_refused_with_the_way_to_convert(tmp_path, name):
    (tmp_path / name).write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match=rf"{tmp_path}: found only pickles \({name}\).*save_pretrained"):
        open_folder(tmp_path)


def header_of(blob):
    (length,) = struct.unpack("<Q", blob[:8])
    return json.loads(blob[8 : 8 + length]), blob[8 + length :]


def file_of(header, data):
    text = json.dumps(header).encode() if isinstance(header, dict) else header
    return struct.pack("<Q", len(text)) + text + data


def longer(header):
    header["a.bias"]["shape"] = [8]


def shifted(header):
    header["a.bias"]["data_offsets"] = [x + 4 for x in header["a.bias"]["data_offsets"]]


def overlapping(header):
    header["e"]["data_offsets"] = [0, 132]


def beyond(header):
    header["a.bias"]["data_offsets"][1] = 2**40


def negative(header):
    header["a.bias"]["data_offsets"][0] = -4


@pytest.mark.parametrize("lie", [longer, shifted, overlapping, beyond, negative])
def test_a_header_that_lies_is_refused(tmp_path, lie):
    write(tmp_path, draw())
    header, data = header_of((tmp_path / SINGLE).read_bytes())
    lie(header)
    (tmp_path / SINGLE).write_bytes(file_of(header, data))
    with pytest.raises(ValueError, match=f"{tmp_path / SINGLE}: found a damaged file"):
        open_folder(tmp_path)


@pytest.mark.parametrize("kept", [0, 5, 8, 60, -1])
def test_a_truncated_file_is_refused(tmp_path, kept):
    write(tmp_path, draw())
    (tmp_path / SINGLE).write_bytes((tmp_path / SINGLE).read_bytes()[:kept])
    with pytest.raises(ValueError, match=f"{tmp_path / SINGLE}: found a damaged file"):
        open_folder(tmp_path)


def test_a_file_cut_after_it_was_opened_is_named(tmp_path):
    write(tmp_path, draw())
    weights = open_folder(tmp_path)
    (tmp_path / SINGLE).write_bytes((tmp_path / SINGLE).read_bytes()[:-4])
    with pytest.raises(ValueError, match=f"{tmp_path / SINGLE}: can't read 'b'"):
        whole(weights, "b")
    (tmp_path / SINGLE).unlink()
    with pytest.raises(ValueError, match=f"{tmp_path / SINGLE}: can't read 'b'"):
        whole(weights, "b")


FIRST = "model-00001-of-00003.safetensors"  # of draw() at 200 bytes a shard


def indexed(folder, change):
    """The folder of three shards whose index was changed."""
    write(folder, draw(), max_shard_bytes=200)
    index = json.loads((folder / INDEX).read_text())
    (folder / INDEX).write_text(json.dumps(change(index["weight_map"]) or index))
    return folder


@pytest.mark.parametrize("outside", ["../model.safetensors", "sub/../../model.safetensors", "/tmp/model.safetensors"])
def test_an_index_that_leaves_its_folder_is_refused(tmp_path, outside):
    write(tmp_path, {"b": draw()["b"]})
    folder = indexed(tmp_path / "folder", lambda shards: shards.update(b=outside))
    with pytest.raises(ValueError, match=f"{INDEX}: weight_map: found '{outside}', expected files within its folder"):
        open_folder(folder)


def test_a_missing_shard_is_named(tmp_path):
    indexed(tmp_path, lambda shards: None)
    (tmp_path / FIRST).unlink()
    with pytest.raises(ValueError, match=f"{FIRST}: found no such file"):
        open_folder(tmp_path)


def test_a_tensor_that_its_shard_lacks_is_named(tmp_path):
    indexed(tmp_path, lambda shards: shards.update(lost=FIRST))
    with pytest.raises(ValueError, match=f"{FIRST}: found no tensor 'lost'"):
        open_folder(tmp_path)


def test_a_tensor_in_no_index_is_named(tmp_path):
    indexed(tmp_path, lambda shards: shards.pop("a.bias") and None)
    with pytest.raises(ValueError, match=f"{FIRST}: found the tensor 'a.bias', expected it nowhere"):
        open_folder(tmp_path)


def test_a_tensor_in_two_shards_is_named(tmp_path):
    indexed(tmp_path, lambda shards: None)
    save_file({**load_file(tmp_path / FIRST), "e": np.zeros(3)}, tmp_path / FIRST)
    with pytest.raises(ValueError, match=f"{FIRST}: found the tensor 'e', expected it in model-00003-of-00003"):
        open_folder(tmp_path)


@pytest.mark.parametrize(
    "shards", [None, {}, [], "model.safetensors", {"a": 1}, {"a": None}, {"a": ["model-00001-of-00003.safetensors"]}]
)
def test_an_index_without_a_map_is_refused(tmp_path, shards):
    indexed(tmp_path, lambda _: {"weight_map": shards})
    with pytest.raises(ValueError, match=f"{tmp_path / INDEX}: weight_map: found"):
        open_folder(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"weight_map": ' + "[" * 100_000, "\udcff"])
def test_an_index_of_broken_json_is_refused(tmp_path, text):
    (tmp_path / INDEX).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=f"{tmp_path / INDEX}: found"):
        open_folder(tmp_path)


def test_a_tensor_that_stands_twice_in_an_index_is_refused(tmp_path):
    indexed(tmp_path, lambda shards: None)
    text = (tmp_path / INDEX).read_text().replace('"a.bias"', '"e"')
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(ValueError, match=f"{tmp_path / INDEX}: found bad JSON \\('e' stands twice\\)"):
        open_folder(tmp_path)


# 10,000 mutations


def mutate(rng, blob):
    """The blob with its header changed in one of 14 ways, its numbers never."""
    (length,) = struct.unpack("<Q", blob[:8])
    text, data = bytearray(blob[8 : 8 + length]), blob[8 + length :]
    place = int(rng.integers(length))
    match rng.integers(14):
        case 0:  # bits, those of the length among them
            changed = bytearray(blob[: 8 + length])
            for _ in range(rng.integers(1, 4)):
                changed[rng.integers(len(changed))] ^= 1 << rng.integers(8)
            return bytes(changed) + data
        case 1:  # bytes
            text[place] = rng.integers(256)
        case 2:
            text[place:place] = rng.bytes(rng.integers(1, 9))
        case 3:
            del text[place : place + int(rng.integers(1, 20))]
        case 4:
            return blob[: rng.integers(len(blob))]
        case 5:
            return struct.pack("<Q", length + int(rng.integers(-length, 3 * length))) + blob[8:]
        case 6:
            return struct.pack("<Q", int(rng.integers(2**64, dtype=np.uint64))) + blob[8:]
        case 7:  # a number
            digits = [i for i, byte in enumerate(text) if chr(byte).isdigit()]
            text[rng.choice(digits)] = ord("0") + int(rng.integers(10))
        case 8:  # an offset or a size far out
            header = json.loads(text)
            tensor = header[rng.choice([name for name in header if name != "__metadata__"])]
            key = str(rng.choice(["data_offsets", "shape"]))
            numbers = tensor[key] or [0]
            odd = [-1, 0, 1, 2**31, 2**32, 2**62, 2**63, 2**64 - 1, 2**64, 10**30, 1.5, True, None, "4", [4]]
            numbers[rng.integers(len(numbers))] = odd[rng.integers(len(odd))]
            tensor[key] = numbers
            text = json.dumps(header).encode()
        case 9:  # two names change places, or one stands twice
            names = ["a.weight", "a.bias", "scalar", "__metadata__", "shape", "data_offsets", "dtype"]
            one, other = (str(name).encode() for name in rng.choice(names, 2))
            text = text.replace(one, other, int(rng.integers(1, 3)))
        case 10:
            depth = int(rng.integers(1, 200_000))
            text[place:place] = b"[" * depth + b"]" * depth * int(rng.integers(2))
        case 11:
            text[place:place] = b"\xff\xfe\xc0\x80"[: rng.integers(1, 5)]
        case 12:  # another dtype
            new = rng.choice(["F16", "BF16", "F64", "I32", "U8", "F8_E4M3", "F4", "C64", "BOOL", "F31", ""])
            text = text.replace(b"F32", str(new).encode(), int(rng.integers(1, 3)))
        case _:
            return blob + rng.bytes(rng.integers(1, 9)) if rng.integers(2) else blob[:-1]
    return struct.pack("<Q", len(text)) + bytes(text) + data


@pytest.fixture
def little_memory():
    """No more than 512 MB above what the process has: a length that is believed would need exabytes."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


def test_of_ten_thousand_mutations_none_is_taken_for_the_file(tmp_path, little_memory):
    tensors = draw()
    write(tmp_path, tensors)
    blob = (tmp_path / SINGLE).read_bytes()
    expected = {name: (found.shape, found.dtype) for name, found in open_folder(tmp_path).tensors.items()}
    rng = np.random.default_rng(5)
    refused = 0
    for _ in range(10_000):
        (tmp_path / SINGLE).unlink()  # a file system flushes what is written over
        (tmp_path / SINGLE).write_bytes(mutate(rng, blob))
        try:
            weights = open_folder(tmp_path)
            found = {name: (found.shape, found.dtype) for name, found in weights.tensors.items()}
            values = {name: whole(weights, name) for name, (_, dtype) in found.items() if dtype in FLOATS}
        except ValueError as error:
            assert str(tmp_path / SINGLE) in str(error)  # noqa: PT017
            refused += 1
        else:  # what it then says is not what a caller expects, or is true
            assert found != expected or same(values, tensors)
    assert refused > 8_000


def test_of_500_mutations_of_an_index_none_is_taken_for_it(tmp_path):
    tensors = draw()
    write(tmp_path, tensors, max_shard_bytes=200)
    text = (tmp_path / INDEX).read_bytes()
    rng = np.random.default_rng(6)
    for _ in range(500):
        changed = bytearray(text)
        for _ in range(rng.integers(1, 4)):
            place = int(rng.integers(len(changed)))
            changed[place : place + int(rng.integers(2))] = rng.bytes(rng.integers(3))
        (tmp_path / INDEX).unlink()
        (tmp_path / INDEX).write_bytes(bytes(changed))
        try:
            found = contents(tmp_path)
        except ValueError as error:
            assert str(tmp_path) in str(error)  # noqa: PT017
        else:
            assert same(found, tensors)


# writing


def test_one_file_is_what_the_library_reads(tmp_path):
    tensors = {**draw(), "half": np.arange(6).astype(jnp.bfloat16).reshape(2, 3)}
    write(tmp_path / "new", tensors)
    assert [path.name for path in (tmp_path / "new").iterdir()] == [SINGLE]
    assert same(load_file(tmp_path / "new" / SINGLE), tensors)
    header, _ = header_of((tmp_path / "new" / SINGLE).read_bytes())
    assert header["__metadata__"] == {"format": "pt"}
    assert (tmp_path / "new" / SINGLE).stat().st_mode & 0o777 == 0o666 & ~umask()


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_shards_are_named_and_listed_as_hugging_faces(tmp_path):
    tensors = draw()  # of 140, 28, 120, 4 and 132 bytes
    write(tmp_path, tensors, max_shard_bytes=168)
    names = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [*names, INDEX]
    index = json.loads((tmp_path / INDEX).read_text())
    held = {"a.weight": 0, "a.bias": 0, "b": 1, "scalar": 1, "e": 2}
    assert index == {
        "metadata": {"total_size": 424},
        "weight_map": {tensor: names[i] for tensor, i in held.items()},
    }
    assert same({name: x for file in names for name, x in load_file(tmp_path / file).items()}, tensors)
    assert same(contents(tmp_path), tensors)


def test_a_tensor_larger_than_a_shard_has_its_own(tmp_path):
    write(tmp_path, draw(), max_shard_bytes=1)
    assert len(list(tmp_path.glob("*.safetensors"))) == 5
    assert same(contents(tmp_path), draw())


def test_shards_pass_through_memory_one_by_one(tmp_path):
    alive = set()

    class Counted(np.ndarray):
        def __del__(self):
            alive.discard(id(self))

    def make():
        for i in range(12):
            x = np.zeros(8, np.float32).view(Counted)
            alive.add(id(x))
            assert len(alive) <= 3 + 1
            yield f"{i}", x

    write_folder(tmp_path, make(), max_shard_bytes=3 * 32)
    assert len(list(tmp_path.glob("*.safetensors"))) == 4


def test_any_order_in_memory_is_written_as_it_reads(tmp_path):
    x = np.arange(24.0, dtype=np.float32).reshape(4, 6)
    views = {
        "t": x.T,
        "steps": x[::2, ::-1],
        "fortran": np.asfortranarray(x),
        "broadcast": np.broadcast_to(x[0], (3, 6)),
    }
    write(tmp_path, views)
    assert same(contents(tmp_path), views)


def test_a_name_that_comes_twice_is_refused(tmp_path):
    x = np.zeros(3)
    with pytest.raises(ValueError, match="found 'a', expected each name once"):
        write_folder(tmp_path, [("a", x), ("a", x)], max_shard_bytes=99)
    assert list(tmp_path.iterdir()) == []


class Death(BaseException):
    pass


SAVES = {"one": 10**9, "three": 200, "two": 300}


@pytest.mark.parametrize("before", [None, *SAVES])
@pytest.mark.parametrize("after", SAVES)
def test_a_death_at_any_step_leaves_the_old_or_the_new(tmp_path, monkeypatch, before, after):
    """Each operation on the disk in turn is the last: none after it, of tidying up neither, is done."""
    old, new = draw(1), draw(2, n=4) | {"new": np.ones((9, 4), np.float32)}
    count, last, dead = 0, 0, False

    def mortal(operation):
        def run(*args, **kwargs):
            nonlocal count, dead
            count += 1
            dead = dead or count > last
            if dead:
                raise Death
            return operation(*args, **kwargs)

        return run

    done, seen = False, set()
    while not done:
        folder, count, dead, last = tmp_path / f"{last}", 0, False, last + 1
        folder.mkdir()
        if before:
            write(folder, old, SAVES[before])
        (folder / "config.json").write_text("{}")
        with monkeypatch.context() as patch:
            for owner, names in [
                (files, ["save_file", "write_whole"]),
                (Path, ["replace", "unlink", "hardlink_to"]),
                (shutil, ["rmtree"]),
                (files.tempfile, ["mkdtemp"]),
            ]:
                for name in names:
                    patch.setattr(owner, name, mortal(getattr(owner, name)))
            try:
                write(folder, new, SAVES[after])
                done = True
            except Death:
                pass
        if before or any((folder / name).exists() for name in (SINGLE, INDEX)):
            found = contents(folder)
            assert same(found, old) or same(found, new)
            seen.add("old" if same(found, old) else "new")
        write(folder, new, SAVES[after])  # the next save finishes and tidies up
        assert same(contents(folder), new)
        shards = (
            {} if after == "one" else set(json.loads((folder / INDEX).read_text())["weight_map"].values()) | {INDEX}
        )
        assert {path.name for path in folder.iterdir()} == {"config.json"} | (shards or {SINGLE})
    assert last > 2
    assert seen == ({"old", "new"} if before else {"new"})


def test_a_failure_while_writing_leaves_no_trace(tmp_path, monkeypatch):
    old = draw(1)
    write(tmp_path, old)

    def failing():
        yield from draw(2).items()
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        write_folder(tmp_path, failing(), max_shard_bytes=200)
    assert [path.name for path in tmp_path.iterdir()] == [SINGLE]
    assert same(contents(tmp_path), old)


def test_a_file_system_without_links_gets_copies(tmp_path, monkeypatch):
    def refuse(self, target):
        raise PermissionError

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    write(tmp_path, draw(1), max_shard_bytes=200)
    write(tmp_path, draw(2), max_shard_bytes=200)
    assert same(contents(tmp_path), draw(2))
    assert len(list(tmp_path.iterdir())) == 4
