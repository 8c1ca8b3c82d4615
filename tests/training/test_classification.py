"""Fine-tuning a classifier: updates as torch makes them, texts as rows, and the numbers that are told of it."""

import functools
import re
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.image import imread
from peers import parameters
from tiny import TINY, draw

from jaxgpt import gpt
from jaxgpt import params as P
from jaxgpt.config import bert, gpt2
from jaxgpt.data import DataConfig, LabelledTexts
from jaxgpt.data.labelled import Example
from jaxgpt.model import declarations
from jaxgpt.sharding import make_mesh
from jaxgpt.tokenizers import CharTokenizer, wordpiece
from jaxgpt.training import classification, directory
from jaxgpt.training.classification import OBJECTIVE, Classification, loss
from jaxgpt.training.config import LoopConfig, OptimizerConfig, TrainConfig
from jaxgpt.training.loop import evaluator
from jaxgpt.training.optimizer import make_optimizer
from jaxgpt.training.state import TrainState
from jaxgpt.training.step import train_step

GOLDEN = Path(__file__).parents[1] / "golden"
SIZES = {
    "vocab_size": 29,
    "context_length": 11,
    "d_model": 12,
    "n_layers": 2,
    "n_heads": 3,
    "dropout": 0.0,
    "scan_layers": True,
}
FAMILIES = {
    "gpt2": replace(gpt2(), **SIZES, head="sequence", n_classes=3),
    "bert": replace(bert(), **SIZES, d_ff=17, n_segments=3, head="sequence", n_classes=3),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_and_an_epochs_losses_are_those_of_transformers_and_torch(family, record_property):
    """tests/golden/make_classification.py: 8 steps of AdamW on padded texts, clipped, matrices and embeddings decayed.

    In float32 against float64: to 1e-5 at the first step, to 1e-4 where Adam has divided small gradients.
    """
    cfg = FAMILIES[family]
    golden = dict(np.load(GOLDEN / f"classification_{family}.npz", allow_pickle=False))

    def tree(kind):
        named = {name.removeprefix(kind): x for name, x in golden.items() if name.startswith(kind)}
        return parameters(family, cfg, {name: x.astype(np.float32) for name, x in named.items()})

    params = tree("param/")
    batches = [{name: jnp.array(golden[name][i]) for name in ("inputs", "mask", "labels")} for i in range(8)]
    (first, _), grads = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=2)(params, batches[0], cfg)
    wanted = tree("grad/")
    for one in (grads, wanted):  # a key's bias moves all of a query's scores alike: its gradient is 0 but for rounding
        assert np.abs(one["layers"]["attention"]["key"].pop("bias")).max() < 1e-6
    errors = jax.tree.map(lambda a, b: float(np.abs(a - b).max() / np.abs(b).max()), grads, wanted)
    errors = [*jax.tree.leaves(errors), abs(float(first) / golden["losses"][0] - 1)]
    record_property("largest error at the first step", float(max(errors)))
    assert max(errors) < 1e-5

    config = OptimizerConfig(learning_rate=1e-2, warmup_steps=0, schedule="constant", weight_decay=0.3)
    optimizer = make_optimizer(config, 8, P.decay_mask(declarations(cfg)))
    state = TrainState(jnp.array(0), params, optimizer.init(params), jax.random.key(0))
    step = jax.jit(functools.partial(train_step, cfg=cfg, objective=OBJECTIVE, optimizer=optimizer))
    found = []
    for batch in batches:
        state, metrics = step(state, batch)
        found.append((metrics["loss"], metrics["grad_norm"]))
    errors = np.abs(np.array(found).T / [golden["losses"], golden["norms"]] - 1)
    record_property("largest error of an epoch", float(errors.max()))
    assert errors[:, 0].max() < 1e-5
    assert errors.max() < 1e-4, errors


WORDS = "abcdefgh "
CFG = replace(TINY, n_layers=1, vocab_size=9, context_length=8, head="sequence", n_classes=3)
TOKENIZER = CharTokenizer(WORDS)
CLASSES = ("x", "y", "z")
hidden = jax.jit(gpt.hidden, static_argnums=2)


def config_of(cfg=CFG, batch_size=4, **changes):
    settings = DataConfig(path="texts.tsv", run_length=2, buckets=2, **changes)
    train = LoopConfig(batch_size=batch_size)
    return TrainConfig(objective="classification", model=cfg, data=settings, train=train, out="nowhere")


def drawn(n, seed=0, longest=8, second=False):
    draw = np.random.default_rng(seed)

    def text():
        return "".join(draw.choice(list("abcdefgh"), draw.integers(1, longest + 1)))

    labels = [*CLASSES, *draw.choice(CLASSES, n, p=[0.7, 0.2, 0.1])][:n]
    return [Example(f"line {i}", text(), text() if second else None, str(label)) for i, label in enumerate(labels)]


def make(train=None, validation=None, tokenizer=TOKENIZER, **changes):
    texts = LabelledTexts(train or drawn(40), validation or drawn(23, seed=1), CLASSES)
    return Classification(config_of(**changes), tokenizer, texts)


def read(batch):
    """(ids, segments, label, weight) of each text of a batch."""
    for row, numbers in enumerate(batch["texts"]):
        for i in range(numbers.max()):
            here = numbers == i + 1
            segments = batch["segments"][row][here] if "segments" in batch else None
            yield batch["inputs"][row][here], segments, batch["labels"][row][i], batch["weights"][row][i]


@pytest.mark.parametrize("pack", [True, False])
def test_batches_are_the_encoded_texts_with_their_classes(pack):
    task = make(pack=pack)
    texts = {one.text: CLASSES.index(one.label) for one in drawn(40)}
    seen = 0
    for step in range(8):
        for ids, segments, label, weight in read(task.train[step]):
            assert (texts[TOKENIZER.decode(ids)], segments, weight) == (label, None, 1)
            seen += 1
    assert task.labels == CLASSES
    assert (seen == 32) == (not pack)  # one a row
    assert len({task.train[step]["inputs"].shape for step in range(0, 80, 2)}) == (1 if pack else 2)


@pytest.mark.parametrize(("pack", "length"), [(True, None), (True, 99), (False, None)])
def test_texts_and_their_balance_and_padding_are_told(pack, length, capsys):
    task = make(pack=pack, pack_length=length)  # no row is longer than the model reads
    said = capsys.readouterr().out.splitlines()
    counts = [sum(one.label == name for one in drawn(40)) for name in CLASSES]
    parts = ", ".join(f"{name} {n} ({n / 40:.1%})" for name, n in zip(CLASSES, counts, strict=True))
    assert said[0] == f"data: 40 training texts: {parts}"
    assert said[1].startswith("data: 23 validation texts: x ")
    tokens = sum(len(one.text) for one in drawn(40))
    rows = -(-tokens // 8)  # no fewer hold them
    packed = [f"data: packed into {rows} rows of 8 tokens, {40 / rows * 4:.1f} texts a batch"] if pack else []
    assert said[2:] == [*packed, f"data: {task.train.padding():.1%} of the batches is padding"]
    if pack:
        assert task.train.padding() == pytest.approx(1 - tokens / (8 * rows))


@pytest.mark.parametrize("rule", ["cut", "drop"])
def test_texts_over_the_context_length_are_cut_or_left_out_and_counted(rule, capsys):
    train, held = drawn(40, longest=12), drawn(23, seed=1, longest=12)
    task = make(train, held, too_long=rule)
    said = capsys.readouterr().out
    for part in (train, held):
        n = sum(len(one.text) > 8 for one in part)
        assert n > 3
        assert f"data: {n} texts of more than 8 tokens {'cut' if rule == 'cut' else 'left out'}\n" in said
    kept = {(one.text[:8], CLASSES.index(one.label)) for one in held if rule == "cut" or len(one.text) <= 8}
    found = set()
    for block in task.evaluation(1):
        for step in range(len(block["labels"])):
            batch = {name: array[step] for name, array in block.items()}
            found |= {(TOKENIZER.decode(ids), int(label)) for ids, _, label, weight in read(batch) if weight}
    assert found == kept


def test_dropping_all_texts_of_a_class_is_refused():
    texts = [one._replace(text="a" * 9) if one.label == "z" else one for one in drawn(40)]
    with pytest.raises(ValueError, match=r"data\.too_long: found 'drop', expected cut, as it leaves no text of z"):
        make(texts, too_long="drop")
    with pytest.raises(
        ValueError, match=r"data\.too_long: found 'drop', expected cut, as it leaves no text of x, y, z"
    ):
        make(validation=[one._replace(text="a" * 9) for one in drawn(5)], too_long="drop")


def test_pairs_are_read_together_and_cut_where_they_are_longer():
    pieces = wordpiece.train([WORDS] * 3 + [" ".join(WORDS)], 30)
    encoder = replace(
        TINY, architecture="encoder", norm_position="post", n_layers=1, vocab_size=30, context_length=12,
        head="sequence", n_classes=3, n_segments=2,
    )  # fmt: skip
    train = drawn(40, second=True)
    task = make(train, drawn(9, seed=1, second=True), pieces, cfg=encoder)
    rows = [tuple(pieces.frame(pieces.encode(one.text), pieces.encode(one.pair))) for one in train]
    whole = {row: one for row, one in zip(rows, train, strict=True) if len(row) <= 12}
    seen = 0
    for step in range(10):
        for ids, segments, _, _ in read(task.train[step]):
            if (one := whole.get(tuple(ids.tolist()))) is not None:
                parts = pieces.encode(one.text), pieces.encode(one.pair)
                assert segments.tolist() == pieces.segments(*parts)
                seen += 1
    assert seen > 20
    single = make(train, drawn(9, seed=1, second=True), pieces, cfg=replace(encoder, n_segments=0))
    assert "segments" not in single.train[0]  # which RoBERTa does not tell apart


@pytest.fixture(scope="module")
def params():
    return draw(declarations(CFG), seed=3)


def predictions(params, texts):
    """The class of each, one text at a time, by the formula of the head."""
    return [CLASSES[int(logits_and_nats(params, one)[0].argmax())] for one in texts]


def logits_and_nats(params, one):
    x = hidden(params, jnp.array([(TOKENIZER.encode(one.text) + [0] * 8)[:8]]), CFG)[0]
    logits = np.asarray(x[0, len(one.text) - 1] @ params["classifier"]["kernel"], np.float64)
    return logits, np.log(np.exp(logits).sum()) - logits[CLASSES.index(one.label)]


@pytest.mark.parametrize(("balanced", "pack"), [(False, True), (True, True), (True, False)])
def test_what_is_told_is_what_scikit_learn_finds_in_the_predictions(params, balanced, pack, tmp_path):
    """And balanced weights are of the training texts alone: what is counted are texts."""
    metrics = pytest.importorskip("sklearn.metrics")
    held = drawn(23, seed=1)
    task = make(validation=held, balanced=balanced, pack=pack)
    assert (len({float(weight) for step in range(8) for *_, weight in read(task.train[step])}) > 1) == balanced
    row = evaluator(config_of(), OBJECTIVE, task, make_mesh())(params)
    real, taken = [one.label for one in held], predictions(params, held)
    assert len(set(taken)) > 1
    assert row.keys() == {"val_loss", "val_accuracy", "val_macro_f1"}
    assert row["val_loss"] == pytest.approx(np.mean([logits_and_nats(params, one)[1] for one in held]), rel=1e-5)
    assert row["val_accuracy"] == pytest.approx(metrics.accuracy_score(real, taken))
    options = {"labels": CLASSES, "zero_division": 0.0}
    assert row["val_macro_f1"] == pytest.approx(metrics.f1_score(real, taken, average="macro", **options))

    most = max(real.count(name) for name in CLASSES) / len(real)
    table = metrics.classification_report(real, taken, digits=4, **options).rstrip()
    baseline = f"the most common class alone: accuracy {most:.4f}"
    assert task.show(params, CFG, 7) == f"--- classes after 7 steps; {baseline} ---\n{table}\n---"

    task.draw(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["confusion.png"]
    assert imread(tmp_path / "confusion.png").ndim == 3


def test_parameters_are_ranked_by_macro_f1_and_then_by_loss():
    task = make()
    rows = [(0.9, 0.5), (0.9, 0.6), (0.5, 0.1)]  # best first
    ranks = [task.rank({"val_macro_f1": f1, "val_loss": nats}) for f1, nats in rows]
    assert ranks == sorted(ranks)
    assert len(set(ranks)) == 3


def test_the_identity_is_of_all_that_is_learnt_from():
    train = drawn(40)
    other = [train[0]._replace(text="hhhh"), *train[1:]]
    relabelled = [*train[:-1], train[-1]._replace(label="y" if train[-1].label != "y" else "z")]
    changed = [make(other), make(relabelled), make(balanced=True), make(tokenizer=CharTokenizer(WORDS.strip()))]
    assert len({task.identity for task in [make(), *changed, make(pack=False)]}) == 6
    assert make().identity == make().identity == make(validation=drawn(9, seed=2)).identity


def table(folder, texts, name="texts.tsv"):
    (folder / name).write_text("".join(f"{one.label}\t{one.text}\n" for one in texts))
    return folder / name


def test_a_tokenizer_is_trained_on_the_training_part_but_knows_every_character(tmp_path):
    texts = [one._replace(text=f"{one.text}{chr(0x400 + i)}") for i, one in enumerate(drawn(60))]  # each its own
    config = config_of(validation_fraction=0.3, tokenizer="char")
    config = replace(config, data=replace(config.data, path=str(table(tmp_path, texts))), out=str(tmp_path / "run"))
    letters = OBJECTIVE.open(config, tmp_path).tokenizer
    assert all(letters.decode(letters.encode(one.text)) == one.text for one in texts)
    words = OBJECTIVE.open(replace(config, data=replace(config.data, tokenizer="word")), tmp_path).tokenizer
    held = sum(words.decode(words.encode(one.text)) != one.text for one in texts)
    assert held == 18


def test_what_is_missing_is_told_before_any_work(tmp_path, monkeypatch):
    settings = DataConfig(path=str(table(tmp_path, drawn(9))), tokenizer="char")
    OBJECTIVE.look(settings)
    with pytest.raises(FileNotFoundError, match=r"data\.path: found nowhere\.tsv, no such file"):
        OBJECTIVE.look(replace(settings, path="nowhere.tsv"))
    with pytest.raises(ValueError, match=r"data\.tokenizer: found 'chars', expected one of .*\(nearest: char\)"):
        OBJECTIVE.look(replace(settings, tokenizer="chars"))
    monkeypatch.setattr(classification, "find_spec", lambda name: None)
    expected = (
        "objective: found 'classification', expected scikit-learn, which splits and measures: pip install 'jaxgpt[cl"
    )
    with pytest.raises(ValueError, match=re.escape(expected)):
        OBJECTIVE.look(settings)


def test_a_run_that_goes_on_has_its_own_tokenizer(tmp_path):
    """Whatever has become of the one that it started with."""
    settings = replace(config_of().data, path=str(table(tmp_path, drawn(60))), tokenizer=f"saved:{tmp_path / 'gone'}")
    config = replace(config_of(), data=settings, out=str(tmp_path / "run"))
    with pytest.raises(FileNotFoundError, match=r"data\.tokenizer: found 'saved:.*gone'"):
        OBJECTIVE.open(config, tmp_path)
    TOKENIZER.save(tmp_path / "run")
    (tmp_path / "run" / directory.CHECKPOINTS / "10").mkdir(parents=True)
    assert OBJECTIVE.open(config, tmp_path).tokenizer.ids == TOKENIZER.ids


@pytest.mark.parametrize(("architecture", "head"), [("encoder-decoder", "lm"), ("encoder", "token")])
def test_another_architecture_or_head_is_refused(architecture, head):
    cfg = replace(CFG, architecture=architecture, head=head, n_classes=3 if head == "token" else None)
    cfg = replace(cfg, norm_position="post" if architecture == "encoder" else "pre")
    field = "architecture" if head == "lm" else "head"
    with pytest.raises(
        ValueError, match=rf"model\.{field}: found '{architecture if head == 'lm' else head}', expected"
    ):
        OBJECTIVE.check(config_of(cfg))
