"""python -m jaxgpt evaluate: the numbers of the measures, printed and as JSON; what is refused before a model is."""

import json
import sys
from dataclasses import replace
from functools import partial

import pytest
from rich.console import Console
from tiny import TINY, draw

import jaxgpt
from jaxgpt import __main__, bars, gpt
from jaxgpt.evaluation.answers import answer_scores, answer_texts
from jaxgpt.evaluation.choices import choice_accuracy
from jaxgpt.evaluation.classes import class_scores
from jaxgpt.evaluation.perplexity import perplexity
from jaxgpt.model import Model, Settings
from jaxgpt.tokenizers import CharTokenizer

CFG = replace(TINY, n_layers=1, context_length=64)
LETTERS = [*"abcdefghijklmnopqrst \n:"]
REVIEWS = [{"text": text, "label": label} for text, label in zip("abcdefgh", "0110" * 2, strict=True)]
QUESTIONS = [
    {"question": "abc", "choices": ["d", "efg"], "label": 1},
    {"question": "cab", "choices": ["fg", "h", "e"], "label": "h"},
]
ANSWERS = [{"prompt": "abc", "answer": "aaaa"}, {"prompt": "cab ", "answer": "tt"}, {"prompt": "k", "answer": "h"}]


@pytest.fixture(scope="module")
def model():
    return Model(CFG, draw(gpt.declare(CFG)), CharTokenizer(LETTERS))


@pytest.fixture(scope="module")
def classifier():
    cfg = replace(CFG, head="sequence", n_classes=2)
    return Model(cfg, draw(gpt.declare(cfg)), CharTokenizer(LETTERS), Settings(labels=("0", "1")))


@pytest.fixture
def say(monkeypatch, capsys, tmp_path):
    """What `evaluate` prints with a model, and writes; None: where no model may be read."""

    def run(model, *options):
        def load(path):
            assert model is not None, "a model was read"
            return model

        monkeypatch.setattr(jaxgpt, "load", load)
        monkeypatch.setenv("COLUMNS", "200")
        out = tmp_path / "out" / "found.json"
        monkeypatch.setattr(sys, "argv", ["jaxgpt", "evaluate", "--model", "M", *map(str, options), "--out", str(out)])
        if model is None:
            with pytest.raises(SystemExit) as refused:
                __main__.main()
            return str(refused.value)
        __main__.main()
        return capsys.readouterr().out, json.loads(out.read_text())

    return run


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_perplexity(say, model, tmp_path):
    text = "a cab had a bad jam" * 9
    (tmp_path / "a.txt").write_text(text)
    table, found = say(model, "perplexity", "--data", tmp_path / "a.txt", "--stride", 7)
    wanted = perplexity(model, text, stride=7)
    assert found == {
        "model": "M",
        "measure": "perplexity",
        "settings": {"data": str(tmp_path / "a.txt"), "context_length": None, "stride": 7, "batch_size": 16},
        "results": wanted._asdict(),
    }
    rows = dict(line.split() for line in table.splitlines())
    assert rows["perplexity"] == f"{wanted.perplexity:.4f}"
    assert rows["tokens"] == "170"


def test_perplexity_of_many_documents(say, model, tmp_path):
    texts = ["a cab", "had a bad jam"]
    found = say(model, "perplexity", "--data", write(tmp_path / "a.jsonl", [{"text": text} for text in texts]))[1]
    assert found["results"] == perplexity(model, texts)._asdict()


def test_classes_by_examples(say, model, tmp_path):
    """Two examples are drawn from the file, and its other records asked for; labels are called as --names says."""
    data = write(tmp_path / "a.jsonl", REVIEWS)
    options = ["--template", "{text}: {label}", "--shots", 2, "--names", "no", "a lot", "--separator", "\\n"]
    _, found = say(model, "choices", "--data", data, *[str(option).replace("\\n", "\n") for option in options])
    from jaxgpt.prompting import choose_shots

    shots = choose_shots(REVIEWS, 2, seed=0)
    names = {"0": "no", "1": "a lot"}
    head = "".join(f"{shot['text']}: {names[shot['label']]}\n" for shot in shots)
    rest = [review for review in REVIEWS if review not in shots]
    prompts = [f"{head}{review['text']}: " for review in rest]
    wanted = choice_accuracy(model, prompts, [["no", "a lot"]] * 6, [int(review["label"]) for review in rest])
    assert found["results"] == wanted._asdict()
    assert found["results"]["records"] == 6


def test_multiple_choice(say, model, tmp_path):
    data, pool = write(tmp_path / "a.jsonl", QUESTIONS), write(tmp_path / "b.jsonl", QUESTIONS[:1])
    options = ["--template", "{question}:{label}", "--choices", "choices", "--separator", " "]
    _, found = say(model, "choices", "--data", data, *options, "--shots", 1, "--shots_data", pool)
    prompts = ["abc:efg abc:", "abc:efg cab:"]
    wanted = choice_accuracy(model, prompts, [question["choices"] for question in QUESTIONS], [1, 1])
    assert found["results"] == wanted._asdict()


def test_classes(say, classifier, tmp_path):
    pytest.importorskip("sklearn")
    (tmp_path / "a.tsv").write_text("".join(f"{one['label']}\t{one['text']}\n" for one in REVIEWS))
    table, found = say(classifier, "classes", "--data", tmp_path / "a.tsv")
    wanted = class_scores(classifier, [one["text"] for one in REVIEWS], [one["label"] for one in REVIEWS])
    classes = {name: one._asdict() for name, one in wanted.classes.items()}
    assert found["results"] == wanted._asdict() | {"classes": classes}
    (row,) = [line.split() for line in table.splitlines() if line.split()[0] == "1"]
    assert row == ["1", *(f"{x:.4f}" for x in wanted.classes["1"][:3]), "4"]


def test_generation(say, model, tmp_path):
    pytest.importorskip("rouge_score")
    data = write(tmp_path / "a.jsonl", ANSWERS)
    _, found = say(model, "generation", "--data", data, "--max_new_tokens", 4, "--stop", "b")
    texts = answer_texts(model, ["abc", "cab", "k"], max_new_tokens=4, stop=["b"])  # without the space at the end
    assert found["results"] == answer_scores(texts, [one["answer"] for one in ANSWERS])._asdict()


TEMPLATE = ["--template", "{text}{label}"]


@pytest.mark.parametrize(
    ("measure", "bar", "options"),
    [
        ("perplexity", "perplexity", []),
        ("choices", "likelihoods", [*TEMPLATE, "--names", "no", "a lot"]),
        ("classes", "classes", []),
        ("generation", "generation", [*TEMPLATE, "--max_new_tokens", 2]),
    ],
)
def test_how_much_is_done_is_shown(monkeypatch, capsys, tmp_path, model, classifier, measure, bar, options):
    for package in {"classes": ["sklearn"], "generation": ["rouge_score"]}.get(measure, []):
        pytest.importorskip(package)
    data = write(tmp_path / "a.jsonl", [one | {"text": one["text"] * 9, "answer": "a"} for one in REVIEWS])
    monkeypatch.setattr(jaxgpt, "load", lambda path: classifier if measure == "classes" else model)
    monkeypatch.setattr(bars, "Console", partial(Console, force_terminal=True, width=80))
    words = ["jaxgpt", "evaluate", "--model", "M", measure, "--data", data, *options]
    monkeypatch.setattr(sys, "argv", list(map(str, words)))
    __main__.main()
    assert bar in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["perplexity", "--data", "no.txt"], "data: found no.txt, no such file or folder"),
        (["perplexity", "--data", "a.txt", "--stride", "0"], "stride: found 0, expected a positive integer"),
        (
            ["perplexity", "--data", "a.txt", "--stride", "9", "--context_length", "8"],
            r"stride: found 9, expected 1..8",
        ),
        (["choices", "--data", "no.csv", *TEMPLATE], "data: found no.csv, no such file"),
        (["choices", "--data", "a.txt", *TEMPLATE], "data: found 'a.txt', expected a name in .csv"),
        (["choices", "--data", "a.jsonl", "--template", "{text}"], "template: found '{text}', expected {label} once"),
        (["choices", "--data", "a.jsonl", "--template", "{txt}{label}"], "template: txt: found 'txt', expected one of"),
        (["choices", "--data", "a.jsonl", *TEMPLATE, "--label", "x"], "label: found 'x', expected one of the fields"),
        (["choices", "--data", "a.jsonl", *TEMPLATE, "--names", "no"], "names: found ['no'], expected 2, one for each"),
        (["choices", "--data", "a.jsonl", *TEMPLATE, "--choices", "text"], "line 1: text: found 'a', expected a list"),
        (["choices", "--data", "a.jsonl", *TEMPLATE, "--shots", "9"], "examples of '0': found 4, expected at least"),
        (["choices", "--data", "a.jsonl", *TEMPLATE, "--shots", "8"], "shots: found 8, expected fewer than the 8"),
        (["classes", "--data", "a.jsonl", "--text", "x"], "data.text: found 'x', expected one of the fields of"),
        (["generation", "--data", "a.jsonl"], "template: prompt: found 'prompt', expected one of the fields"),
        (["generation", "--data", "b.jsonl"], "b.jsonl, line 1: answer: found ' ', expected an answer"),
        (["generation", "--data", "b.jsonl", "--max_new_tokens", "0"], "max_new_tokens: found 0, expected a positive"),
        (["generation", "--data", "b.jsonl", "--stop", ""], "stop: found [''], expected strings of at least one"),
    ],
)
def test_a_mistake_is_one_line_before_a_model_is_read(say, tmp_path, monkeypatch, options, message):
    pytest.importorskip("rouge_score" if options[0] == "generation" else "sklearn")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("abc")
    write(tmp_path / "a.jsonl", REVIEWS)
    write(tmp_path / "b.jsonl", [{"prompt": "a", "answer": " "}])
    found = say(None, *options)
    assert found.startswith("error: ")
    assert message in found
    assert "\n" not in found
