"""train.py with its other objectives, as their users run it: a translator and a BERT, from text to the command line."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from test_multiprocess import Pair
from test_train import Runner, losses
from tiers import few

import jaxgpt

NOUNS = {"hund": "dog", "katze": "cat", "vogel": "bird", "fisch": "fish", "wolf": "wolf", "kuh": "cow"}
VERBS = {"sieht": "sees", "jagt": "hunts", "liebt": "loves", "sucht": "seeks"}
SHAPE = {"model.d_model": 32, "model.n_heads": 2, "model.n_layers": 1, "model.context_length": 24}
TRANSLATION = {
    **SHAPE,
    "objective": "seq2seq",
    "train.sample_tokens": 200,  # of no meaning here: anything else is refused
    "model.architecture": "encoder-decoder",
    "model.label_smoothing": 0.1,
    "model.init_std": 0.15,
    "model.dropout": 0.0,
    "data.tokenizer": "bpe",
    "data.vocab_size": 300,
    "data.buckets": 2,
    "data.run_length": 5,
    "optimizer.schedule": "inverse_sqrt",
    "optimizer.warmup_steps": 40,
    "train.batch_size": 16,
    "train.steps": 80,
    "train.eval_every": 40,
    "train.save_every": 20,
    "train.steps_per_dispatch": 5,
}
MASKED = {
    **SHAPE,
    "objective": "masked_lm",
    "train.sample_tokens": 200,
    "model.architecture": "encoder",
    "data.tokenizer": "wordpiece",
    "data.vocab_size": 80,
    "data.sampling": "epochs",
    "train.batch_size": 16,
    "train.steps": 60,
}

CLASSES = {**SHAPE, "train.sample_tokens": 200, "train.batch_size": 8, "train.steps": 60, "train.eval_every": 20}
CLASSES |= {"objective": "classification", "data.run_length": 5, "data.buckets": 2, "model.vocab_size": 8}


def pairs(n, seed=0):
    draw = np.random.default_rng(seed)

    def sentence():
        a, b = draw.choice(list(NOUNS), 2)
        verb = draw.choice(list(VERBS))
        more = draw.choice(list(NOUNS)) if draw.random() < 0.3 else None
        source, target = f"{a} {verb} {b}", f"{NOUNS[a]} {VERBS[verb]} {NOUNS[b]}"
        return (f"{source} und {more}", f"{target} and {NOUNS[more]}") if more else (source, target)

    return [sentence() for _ in range(n)]


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    runner = Runner(tmp_path_factory.mktemp("objectives"))
    folder = runner.folder / "pairs"
    folder.mkdir()
    for name, n in (("train", 400), ("val", 40)):
        found = pairs(n, seed=n)
        (folder / f"{name}.de").write_text("".join(f"{source}\n" for source, _ in found))
        (folder / f"{name}.en").write_text("".join(f"{target}\n" for _, target in found))
    (runner.folder / "text.txt").write_text("".join(f"the {a} and the {b} .\n" for a, b in pairs(600)))
    return runner


@pytest.fixture(scope="module")
def translator(runner):
    fields = TRANSLATION | {"data.path": runner.folder / "pairs", "data.source": "de", "data.target": "en"}
    return runner.folder / "translator", fields, runner.finish("translator", **fields)


@pytest.fixture(scope="module")
def masked(runner):
    fields = MASKED | {"data.path": runner.folder / "text.txt"}
    return runner.folder / "masked", fields, runner.finish("masked", **fields)


@pytest.fixture(scope="module")
def classifier(runner):
    """A decoder of the text, and what it has learnt after that: in which language a sentence is."""
    base = {"data.path": runner.folder / "text.txt", "data.tokenizer": "bpe", "data.vocab_size": 280}
    more = {"model.position": "learned", "model.context_length": 40, "model.dropout": 0.0, "train.steps": 20}
    runner.finish("base", "--model.bias", **SHAPE | base | more)
    found = pairs(240, seed=5)
    rows = [("german", source) if i % 3 else ("english", target) for i, (source, target) in enumerate(found)]
    (runner.folder / "labelled.tsv").write_text("".join(f"{label}\t{text}\n" for label, text in rows))
    fields = CLASSES | {"data.path": runner.folder / "labelled.tsv", "init_from": runner.folder / "base"}
    return runner.folder / "classifier", fields, runner.finish("classifier", **fields), rows


def command(runner, *words, stdin=None):
    run = [sys.executable, "-m", "jaxgpt", *map(str, words)]
    return subprocess.run(run, env=runner.env, input=stdin, capture_output=True, text=True, timeout=300)


def rows_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.thorough
def test_a_translator_learns_and_says_how_well(translator):
    run, _, stdout = translator
    evaluated = [row for row in rows_of(run) if "val_loss" in row]
    assert [row["step"] for row in evaluated] == [0, 40, 80]
    assert all({"val_bleu", "val_accuracy", "val_perplexity"} <= set(row) for row in evaluated)
    assert evaluated[-1]["val_loss"] < evaluated[0]["val_loss"] - 2
    assert evaluated[-1]["val_bleu"] > evaluated[0]["val_bleu"] + 30
    assert re.search(r"data: \d+% of the batches is padding", stdout)
    assert "--- BLEU: nrefs:1|case:mixed" in stdout
    assert stdout.count("reference  ") == 4
    assert (run / "loss.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.thorough
def test_its_run_goes_on_to_the_same_numbers(runner, translator):
    run, fields, _ = translator
    again = runner.folder / "again"
    subprocess.run(["cp", "-r", str(run), str(again)], check=True)
    subprocess.run(["rm", "-r", str(again / "checkpoints" / "80")], check=True)
    assert "resuming from step 60\n" in runner.finish("again", **fields)
    assert losses(again) == losses(run)
    assert rows_of(again)[-1]["val_bleu"] == rows_of(run)[-1]["val_bleu"]


@pytest.mark.slow
def test_it_learns_the_same_on_four_devices_and_in_bfloat16(runner, translator):
    _, fields, _ = translator
    short = {"train.steps": 20, "train.eval_every": 10}
    runner.on(4).finish("meshed", **fields | short, **{"mesh.fsdp": 2, "mesh.tensor": 2})
    runner.finish("single", **fields | short)
    found, wanted = (np.array(losses(runner.folder / name), float) for name in ("meshed", "single"))
    np.testing.assert_allclose(found, wanted, atol=2e-4)
    runner.finish("low", **fields | short, **{"model.dtype": "bfloat16", "train.accumulation": 2})
    low = np.array(losses(runner.folder / "low"), float)
    np.testing.assert_allclose(low[-1], wanted[-1], atol=0.3)


@pytest.mark.thorough
def test_translate_reads_arguments_and_standard_input(runner, translator):
    run, _, _ = translator
    done = command(runner, "translate", "--model", run, "hund jagt katze", "wolf liebt fisch")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2
    piped = command(runner, "translate", "--model", run, stdin="hund jagt katze\n\nwolf liebt fisch\n")
    assert piped.returncode == 0, piped.stderr
    first, second = done.stdout.splitlines()
    assert piped.stdout.splitlines() == [first, "", second]
    long = command(runner, "translate", "--model", run, "hund jagt katze und " * 20)
    assert long.returncode == 1
    assert re.search(r"^error: text 0: found \d+, expected at most 24 tokens", long.stderr)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    few(
        [
            ("train.en", lambda lines: lines[:-3], r"error: .*400.*397|error: .*397.*400"),
            ("train.de", lambda lines: [*lines[:6], "\n", *lines[7:]], r"error: .*train\.de.*7"),
            ("val.en", lambda lines: [*lines[:2], "   \n", *lines[3:]], r"error: .*val\.en.*3"),
            ("train.de", lambda lines: [*lines[:10], "hund jagt " * 30 + "\n", *lines[11:]], r"error: .*line 11.*=24"),
        ],
        2,
    ),
)
def test_pairs_that_cannot_be_used_are_refused_by_file_and_line(runner, translator, tmp_path, name, change, message):
    _, fields, _ = translator
    folder = tmp_path / "pairs"
    subprocess.run(["cp", "-r", str(runner.folder / "pairs"), str(folder)], check=True)
    lines = (folder / name).read_text().splitlines(keepends=True)
    (folder / name).write_text("".join(change(lines)))
    found = runner.refuse(f"refused_{tmp_path.name}", **fields | {"data.path": folder})
    assert re.search(message, found), found


def test_a_masked_language_model_learns_and_fills_in_blanks(runner, masked):
    run, _, stdout = masked
    evaluated = [row for row in rows_of(run) if "val_loss" in row]
    assert all({"val_accuracy", "val_unigram_accuracy", "val_perplexity"} <= set(row) for row in evaluated)
    assert evaluated[-1]["val_loss"] < evaluated[0]["val_loss"] - 1
    assert evaluated[-1]["val_accuracy"] > evaluated[0]["val_accuracy"]
    assert stdout.count("[MASK]") == 12
    done = command(runner, "fill-mask", "--model", run, "--text", "the hund [MASK] a dog", "--top_k", 3)
    assert done.returncode == 0, done.stderr
    for text, message in (("no blank", r"\[MASK\]"), ("[MASK] " * 30, "at most 24")):
        failed = command(runner, "fill-mask", "--model", run, "--text", text)
        assert failed.returncode == 1
        assert re.search(message, failed.stderr), failed.stderr
        assert failed.stderr.startswith("error: ")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["translator", "masked"])
def test_two_processes_compute_and_tell_what_one_does(runner, request, kind):
    run, fields, _ = request.getfixturevalue(kind)
    short = fields | {"train.steps": 20, "train.eval_every": 10}
    one, two = runner.finish(f"{kind}_one", **short), Pair(runner).finish(f"{kind}_two", **short, **{"mesh.data": 2})
    found, wanted = (np.array(losses(run.with_name(f"{kind}_{n}")), float) for n in ("two", "one"))
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
    assert one.splitlines()[-8:-1] == two.splitlines()[-8:-1]  # the last of what they show


@pytest.mark.thorough
def test_its_masks_do_not_depend_on_where_the_run_was_interrupted(runner, masked):
    run, fields, _ = masked
    again = runner.folder / "masked_again"
    subprocess.run(["cp", "-r", str(run), str(again)], check=True)
    subprocess.run(["rm", "-rf", str(again / "checkpoints" / "60")], check=True)
    assert "resuming from step 50\n" in runner.finish("masked_again", **fields)
    assert losses(again) == losses(run)


@pytest.mark.thorough
def test_attention_is_drawn_from_both(runner, translator, masked):
    for (run, _, _), words in ((translator, ["hund jagt katze"]), (masked, ["the hund and the dog"])):
        out = runner.folder / f"{run.name}.png"
        done = command(runner, "attention", "--model", run, "--text", *words, "--out", out)
        assert done.returncode == 0, done.stderr
        assert out.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("fields", "message"),
    few(
        [
            (
                {"data.tokenizer": "bpe", "data.vocab_size": 300},
                r"data\.tokenizer: found 'bpe', expected one with \[CLS\]",
            ),
            ({"data.tokenizer": "vocab:nowhere.txt"}, r"data\.tokenizer: .*nowhere\.txt"),
            ({"data.tokenizer": b"the\nand\n"}, r"error: .*\[PAD\].*\[MASK\]"),
            ({"model.context_length": 3000}, r"error: data.*expected at least .*2998"),
            (
                {"train.sample_prompt": "a"},
                r"train\.sample_prompt: found 'a', expected '', as objective='masked_lm'",
            ),
            ({"model.architecture": "decoder"}, r"model\.architecture: found 'decoder', expected 'encoder'"),
        ],
        2,
    ),
)
def test_a_masked_run_that_cannot_be_is_refused(runner, masked, tmp_path, fields, message):
    if isinstance(content := fields.get("data.tokenizer"), bytes):
        (tmp_path / "vocab.txt").write_bytes(content)
        fields = {"data.tokenizer": f"vocab:{tmp_path / 'vocab.txt'}"}
    found = runner.refuse(f"refused_{tmp_path.name}", **masked[1] | fields)
    assert re.search(message, found), found


def test_a_decoder_learns_to_tell_classes_and_its_run_says_how_well(classifier):
    run, _, stdout, _ = classifier
    evaluated = [row for row in rows_of(run) if "val_loss" in row]
    assert [row["step"] for row in evaluated] == [0, 20, 40, 60]
    assert all({"val_accuracy", "val_macro_f1"} <= set(row) for row in evaluated)
    assert evaluated[-1]["val_macro_f1"] > 0.9
    said = " ".join(stdout.split())
    assert "labelled.tsv has no header: column 1 is taken for the label, the other for the text" in said
    assert "data: 216 training texts: english 72 (33.3%), german 144 (66.7%)" in said
    assert "data: 24 validation texts: english 8 (33.3%), german 16 (66.7%)" in said
    assert "init_from: starting anew: classifier/kernel" in said
    assert "--- classes after 60 steps; the most common class alone: accuracy 0.6667 ---" in said
    for name in ("loss.png", "confusion.png"):
        assert (run / name).read_bytes()[:4] == b"\x89PNG"


def test_its_classes_are_told_by_name_here_and_by_transformers(classifier):
    run, _, _, rows = classifier
    labels, texts = zip(*rows[:9], strict=True)
    found = jaxgpt.pipeline("text-classification", model=run)(list(texts), top_k=None)
    assert [row[0]["label"] for row in found] == list(labels)
    transformers = pytest.importorskip("transformers")
    theirs = transformers.pipeline("text-classification", model=str(run), device="cpu")
    for options in ({}, {"batch_size": 4}):
        for ours, row in zip(found, theirs(list(texts), top_k=None, **options), strict=True):
            assert [one["label"] for one in ours] == [one["label"] for one in row]
            np.testing.assert_allclose([one["score"] for one in ours], [one["score"] for one in row], atol=1e-5)


@pytest.mark.thorough
def test_its_run_goes_on_without_the_base_to_the_same_numbers(runner, classifier):
    run, fields, _, _ = classifier
    again, base = runner.folder / "told_again", runner.folder / "base"
    subprocess.run(["cp", "-r", str(run), str(again)], check=True)
    subprocess.run(["rm", "-r", str(again / "checkpoints" / "60")], check=True)
    base.rename(runner.folder / "hidden")
    try:
        assert "resuming from step 50\n" in runner.finish("told_again", **fields)
    finally:
        (runner.folder / "hidden").rename(base)
    assert losses(again) == losses(run)
    assert rows_of(again)[-1]["val_macro_f1"] == rows_of(run)[-1]["val_macro_f1"]


@pytest.mark.parametrize(
    ("last", "fields", "message"),
    [
        ("fox\tthe end", {}, r"line 241: label: found 'fox' once, expected each class twice or more"),
        ("wolf\tthe end\tof it", {}, r"data: columns in .*, line 241: found 3, expected 2: label, text"),
        ("wolf\tthe end", {"train.sample_prompt": "the"}, r"train\.sample_prompt: found 'the', expected '', as obj"),
    ],
)
def test_a_classifier_that_cannot_be_is_refused(runner, classifier, tmp_path, last, fields, message):
    table = tmp_path / "labelled.tsv"
    table.write_text(f"{(runner.folder / 'labelled.tsv').read_text()}{last}\n")
    found = runner.refuse(f"refused_{tmp_path.name}", **classifier[1] | fields | {"data.path": table})
    assert re.search(message, found), found


@pytest.mark.thorough
def test_other_classes_need_a_new_head(runner, classifier, tmp_path):
    run, fields, _, rows = classifier
    table = tmp_path / "labelled.tsv"
    table.write_text("".join(f"{'cow' if 'cow' in text else 'other'}\t{text}\n" for _, text in rows))
    fields = fields | {"data.path": table, "init_from": run, "train.steps": 5}
    refused = runner.refuse("others", **fields)
    expected = (
        r"data\.label: classes: found \['cow', 'other'\], expected init_from's english, german, or --train\.new_head"
    )
    assert re.search(expected, refused), refused
    assert "init_from: starting anew: classifier/kernel" in runner.finish("others", "--train.new_head", **fields)
    assert jaxgpt.load(runner.folder / "others").settings.labels == ("cow", "other")
