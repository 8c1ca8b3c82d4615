"""Labelled texts: how they are read, parted and batched, and what cannot be used."""

import json
import re
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from jaxgpt.data import BucketBatches, DataConfig, read_labelled
from jaxgpt.data.buckets import evaluation
from jaxgpt.data.labelled import Labelled, balance, check_labelled, shares, whole_texts

N = 200


def write(folder, rows, name="a.jsonl"):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / name)


def rows_of(*labels):
    return [{"text": f"text {i}", "label": label} for i, label in enumerate(labels)]


def read(folder, rows, seed=0, log=lambda line: None, **changes):
    return read_labelled(DataConfig(path=write(folder, rows), **changes), seed, log)


def many(seed=0):
    """Half, a third and a sixth of the texts, in any order."""
    labels = np.repeat(["a", "b", "c"], [N // 2, N // 3 + 1, N - N // 2 - N // 3 - 1])
    return rows_of(*np.random.default_rng(seed).permutation(labels).tolist())


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_each_part_has_the_shares_of_the_whole_and_each_text_is_in_one(tmp_path, fraction):
    found = read(tmp_path, many(), validation_fraction=fraction)
    texts = [one.text for part in (found.train, found.validation) for one in part]
    assert sorted(texts) == sorted(row["text"] for row in many())
    assert len(found.validation) == round(N * fraction)
    whole, held = (Counter(labels) for labels in ([r["label"] for r in many()], [e.label for e in found.validation]))
    assert all(abs(held[name] - whole[name] * fraction) < 1 for name in "abc")
    for part in (found.train, found.validation):
        numbers = [int(one.text.split()[1]) for one in part]
        assert numbers == sorted(numbers)  # as they are in the file
        assert all(many()[i]["label"] == one.label for i, one in zip(numbers, part, strict=True))


def test_the_parts_depend_on_the_seed_alone(tmp_path):
    first, again, other = (read(tmp_path, many(), seed).validation for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_a_class_that_is_rare_is_in_both_parts(tmp_path):
    rows = rows_of(*["a"] * 150, *["b"] * 148, "c", "c")
    for seed in range(5):
        found = read(tmp_path, rows, seed, validation_fraction=0.05)
        for part in (found.train, found.validation):
            assert {one.label for one in part} == {"a", "b", "c"}
        assert len(found.train) + len(found.validation) == 300


def test_held_out_texts_may_have_a_file_of_their_own(tmp_path):
    held = write(tmp_path, rows_of("b", "b"), "held.jsonl")
    found = read(tmp_path, rows_of("a", "b", "a"), validation_path=held)
    assert [one.label for one in found.train] == ["a", "b", "a"]
    assert [one.place for one in found.validation] == [f"{held}, line 1", f"{held}, line 2"]
    assert found.classes == ("a", "b")
    write(tmp_path, rows_of("b", "c"), "held.jsonl")
    with pytest.raises(
        ValueError, match=r"held\.jsonl, line 2: label: found 'c', expected one of the classes of .*: a, b"
    ):
        read(tmp_path, rows_of("a", "b", "a"), validation_path=held)


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([10, 9, -1, 10, 9, -1], ("-1", "9", "10")),
        (["b", " a ", "b", "a"], ("a", "b")),
        (["x", "2", "10", "²", "--1"] * 2, ("2", "10", "--1", "x", "²")),  # no number is what only looks like one
        ([True, False] * 2, ("False", "True")),
    ],
)
def test_classes_are_numbers_in_order_then_names_by_the_alphabet(tmp_path, labels, classes):
    assert read(tmp_path, rows_of(*labels), validation_fraction=0.5).classes == classes


def test_columns_are_those_that_are_named(tmp_path):
    rows = [{"premise": f"p{i}", "hypothesis": f"h{i}", "gold": "ab"[i % 2], "text": "x"} for i in range(8)]
    found = read(tmp_path, rows, text="premise", text_pair="hypothesis", label="gold", validation_fraction=0.5)
    assert {(one.text, one.pair, one.label) for one in found.train + found.validation} == {
        (f"p{i}", f"h{i}", "ab"[i % 2]) for i in range(8)
    }
    assert all(one.pair is None for one in read(tmp_path, rows, label="gold", validation_fraction=0.5).train)


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        (rows_of("a", "b", "a"), {}, "line 2: label: found 'b' once, expected each class twice or more, to train on"),
        (rows_of("a", "a"), {}, "a.jsonl: label: found ['a'], expected two classes or more"),
        (rows_of("a", "b", 1.5), {}, "line 3: label: found 1.5, expected a text or a whole number"),
        (rows_of("a", "b", None), {}, "line 3: label: found None, expected a text or a whole number"),
        ([{"text": 3, "label": "a"}], {}, "line 1: text: found 3, expected a text"),
        (rows_of("a", "b") * 2, {"label": "class"}, "data.label: found 'class', expected one of the fields of"),
        (rows_of("a", "b") * 2, {"text_pair": "two"}, "data.text_pair: found 'two', expected one of the fields of"),
        ([], {}, "data.path: found"),
        (rows_of("a", "b") * 2, {"validation_fraction": 0.1}, "data.validation_fraction: found 0.1, expected one that"),
        (rows_of("a", "b") * 2, {"validation_fraction": 0.9}, "data.validation_fraction: found 0.9, expected one that"),
        (
            rows_of(*["a"] * 20, "b", "b"),
            {"validation_fraction": 0.9},
            "data.validation_fraction: found 0.9, expected one that leaves some texts of b to train on",
        ),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path, rows, changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        read(tmp_path, rows, **changes)


def test_empty_texts_and_labels_are_named_and_counted(tmp_path):
    rows = rows_of(*"ab" * 10)
    rows[3]["text"], rows[5]["label"], rows[7]["text"] = "", " ", " \n"
    expected = ", expected some"
    places = "; ".join(f"{tmp_path / 'a.jsonl'}, line {i}" for i in (4, 6, 8))
    with pytest.raises(ValueError, match=re.escape(f"data: found an empty text or label in {places}{expected}")):
        read(tmp_path, rows)
    for row in rows[:8]:
        row["text"] = ""
    with pytest.raises(ValueError, match=re.escape("line 5 and 3 more, expected some")):
        read(tmp_path, rows)


def test_files_are_looked_for_before_they_are_read(tmp_path):
    there = write(tmp_path, [])
    check_labelled(DataConfig(path=there))
    with pytest.raises(FileNotFoundError, match=r"data\.path: found nowhere\.csv, no such file"):
        check_labelled(DataConfig(path="nowhere.csv"))
    with pytest.raises(FileNotFoundError, match=r"data\.validation_path: found nowhere\.csv, no such file"):
        check_labelled(DataConfig(path=there, validation_path="nowhere.csv"))


def drawn_texts(seed, n=60):
    """Runs of words over a small alphabet, many of them parts of others, some equal but for white space."""
    draw = np.random.default_rng(seed)
    texts = [" ".join(draw.choice(["a", "b", "aa"], draw.integers(1, 9))) for _ in range(n)]
    return [text.replace(" ", "  ") if draw.random() < 0.2 else text for text in texts]


def contains(one, other):
    """Whether the words of other are, one after the other, among those of one."""
    one, other = one.split(), other.split()
    return any(one[i : i + len(other)] == other for i in range(len(one) - len(other) + 1))


@pytest.mark.parametrize("seed", range(8))
def test_whole_texts_are_those_that_no_other_contains(seed):
    texts = drawn_texts(seed)

    def part(i):
        """Of another text, or equal to one before."""
        larger = (j for j, other in enumerate(texts) if j != i and contains(other, texts[i]))
        return any(not contains(texts[i], texts[j]) or j < i for j in larger)

    assert whole_texts(texts).tolist() == [i for i in range(len(texts)) if not part(i)]


@pytest.mark.parametrize("seed", range(8))
def test_no_whole_text_that_is_held_out_contains_another_or_is_part_of_one(tmp_path, seed):
    """Neither of a training text nor of another that is held out; and no text is left out but for that."""
    draw = np.random.default_rng(seed)
    rows = [{"text": text, "label": "ab"[draw.integers(2)]} for text in drawn_texts(seed, 200)]
    said = []
    found = read(tmp_path, rows, seed, said.append, whole=True, validation_fraction=0.2)
    train, held = [one.text for one in found.train], [one.text for one in found.validation]
    assert len(held) == -(-len(whole_texts([row["text"] for row in rows])) // 5) > 3
    for i, one in enumerate(held):
        assert not any(contains(one, other) or contains(other, one) for other in train + held[:i])
    used = {one.place for one in found.train + found.validation}
    left = [row["text"] for i, row in enumerate(rows) if f"{tmp_path / 'a.jsonl'}, line {i + 1}" not in used]
    assert all(any(contains(one, other) for one in held) for other in left)
    assert said == [f"data: {len(left)} texts left out, as they are parts of the {len(held)} to validate on"]
    assert left


def test_a_class_without_whole_texts_cannot_be_held_out(tmp_path):
    rows = [{"text": f"a b c{i}", "label": "x"} for i in range(9)] + [{"text": f"c{i}", "label": "y"} for i in range(9)]
    with pytest.raises(
        ValueError, match=r"validation_fraction: found 0\.2, expected one that leaves some texts of y to v"
    ):
        read(tmp_path, rows, whole=True, validation_fraction=0.2)


def test_balance_is_told_in_the_order_of_the_classes(tmp_path):
    found = read(tmp_path, many(), validation_fraction=0.5)
    assert balance(found.train + found.validation, ("c", "a", "b")) == "c 33 (16.5%), a 100 (50.0%), b 67 (33.5%)"


def test_shares_are_scikit_learns_class_weights():
    sklearn = pytest.importorskip("sklearn.utils.class_weight")
    labels = np.random.default_rng(0).choice(4, 100, p=[0.5, 0.3, 0.15, 0.05])
    wanted = sklearn.compute_class_weight("balanced", classes=np.arange(4), y=labels)
    np.testing.assert_allclose(shares(labels, 4, True), wanted, rtol=1e-6)
    assert shares(labels, 4, True)[labels].sum() == pytest.approx(100)
    assert shares(labels, 4, False).tolist() == [1, 1, 1, 1]


def drawn(n=23, told=True, packs=None, last=False):
    """Text i is of i + 1 throughout."""
    lengths = np.random.default_rng(0).integers(1, 12, n)
    ids = [[i + 1] * int(length) for i, length in enumerate(lengths)]
    segments = [[i % 2] * len(row) for i, row in enumerate(ids)] if told else None
    packs = packs or [[i] for i in range(n)]
    return Labelled(ids, segments, np.arange(n) % 3, np.array([1, 2, 0.5], np.float32), packs, last)


def texts_of(batch, last):
    """(ids, segments, label, weight) of each text of a batch, read off its arrays; the padding is seen to be 0."""
    found = []
    for row, numbers in enumerate(batch["texts"]):
        n = numbers.max()
        assert set(numbers) - {0} == set(range(1, n + 1))
        assert not batch["inputs"][row][numbers == 0].any()
        assert not any(batch[name][row][n:].any() for name in ("positions", "labels", "weights"))
        for i in range(n):
            at = np.flatnonzero(numbers == i + 1)
            assert np.ptp(at) == len(at) - 1
            assert batch["positions"][row][i] == at[-1 if last else 0]
            segments = batch["segments"][row][at].tolist() if "segments" in batch else None
            one = batch["inputs"][row][at].tolist(), segments, batch["labels"][row][i], batch["weights"][row][i]
            found.append(one)
    return found


PACKS = [[3, 0, 7], [1], [22, 2], [4, 5, 6, 8], [9, 10, 11], *([i] for i in range(12, 22))]


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize(("packs", "last"), [(None, False), (PACKS, True), (PACKS, False)])
def test_a_batch_is_its_texts(told, packs, last):
    texts = drawn(told=told, packs=packs, last=last)
    assert texts.lengths[:, 0].tolist() == [sum(len(texts.ids[i]) for i in pack) for pack in texts.packs]
    data = BucketBatches(texts, 4, 0, 3, 2, 4)
    for step in range(12):
        batch = data[step]
        assert list(batch) == ["inputs", "texts", *(["segments"] if told else []), "positions", "labels", "weights"]
        assert [str(x.dtype) for x in batch.values()] == ["int32"] * (len(batch) - 1) + ["float32"]
        assert all(batch[name].shape == (4, 4 if packs else 1) for name in ("positions", "labels", "weights"))
        for ids, segments, label, weight in texts_of(batch, last):
            i = ids[0] - 1
            assert ids == texts.ids[i]
            assert segments == (texts.segments[i] if told else None)
            assert (label, weight) == (i % 3, [1, 2, 0.5][i % 3])


@pytest.mark.parametrize("packs", [None, PACKS])
def test_evaluation_has_each_text_once_and_rows_of_none_weigh_nothing(packs):
    texts = drawn(packs=packs)
    blocks = list(evaluation(texts, 4, 3))
    found = []
    for block in blocks:
        for step in range(len(block["texts"])):
            found += texts_of({name: array[step] for name, array in block.items()}, last=False)
    assert sorted(ids[0] for ids, *_, weight in found if weight > 0) == list(range(1, 24))
    assert all(ids == [0] for ids, *_, weight in found if weight == 0)


@pytest.mark.parametrize("cells", [1, 3, 10])
def test_a_cycle_has_a_run_of_each_cell(cells):
    data = BucketBatches(drawn(60), 4, 0, 3, 2, cells)
    assert len(data._order(0)) == 2 * cells


def test_more_cells_are_no_more_padding():
    ids, packs = [[1] * n for n in [*range(1, 40), *[200] * 2]], [[i] for i in range(41)]
    texts = Labelled(ids, None, np.zeros(41, int), np.ones(1, np.float32), packs, last=False)
    found = [BucketBatches(texts, 4, 0, 3, 2, cells).padding() for cells in (1, 2, 4, 8)]
    assert all(more < few for few, more in pairwise(found))
