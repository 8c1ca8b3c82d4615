"""What the tasks of masked tokens and of pairs tell of a run, by hand."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from tiny import TINY, draw

from jaxgpt import bert, seq2seq
from jaxgpt.data import DataConfig
from jaxgpt.sharding import make_mesh
from jaxgpt.training import objectives
from jaxgpt.training.config import LoopConfig, TrainConfig
from jaxgpt.training.loop import evaluator

TEXT = "the cat sat on the mat and the dog sat on the log .\n" * 60


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("masked")
    (folder / "text.txt").write_text(TEXT)
    config = TrainConfig(
        objective="masked_lm",
        model=replace(TINY, architecture="encoder", vocab_size=60),
        data=DataConfig(path=str(folder / "text.txt"), tokenizer="wordpiece", vocab_size=60),
        train=LoopConfig(batch_size=4, eval_batches=2, final_eval_batches=5),
    )
    return config, objectives.find("masked_lm").open(config, folder / "data")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    lines = [f"{a} und {b}\t{b} and {a}\n" for a in "uvwxyz" for b in "abcdefgh"]
    (folder / "pairs.tsv").write_text("".join(lines))
    config = TrainConfig(
        objective="seq2seq",
        model=replace(TINY, architecture="encoder-decoder", vocab_size=270, n_layers=1),
        data=DataConfig(path=str(folder / "pairs.tsv"), tokenizer="bpe", vocab_size=270, buckets=2),
        train=LoopConfig(batch_size=4),
    )
    return config, objectives.find("seq2seq").open(config, folder / "data")


def test_the_unigram_baseline_guesses_the_most_common_token_of_the_training_part(masked):
    config, task = masked
    blocks = list(task.evaluation(config.train.final_eval_batches))
    targets = np.concatenate([block["targets"][block["weights"] > 0] for block in blocks])
    the = task.tokenizer.encode("the")[0]
    told = task.metrics({"nats": 30.0, "correct": 5.0, "weight": 20.0})
    assert told["val_unigram_accuracy"] == pytest.approx((targets == the).mean())
    assert told["val_unigram_accuracy"] > 0.2
    assert (told["val_loss"], told["val_accuracy"]) == (1.5, 0.25)
    assert told["val_perplexity"] == pytest.approx(np.exp(1.5))


def test_an_evaluation_adds_up_the_targets_of_all_its_batches(masked):
    config, task = masked
    params = draw(bert.declare(config.model))
    found = evaluator(config, objectives.find("masked_lm"), task, make_mesh())(params)
    nats = weight = 0.0
    for block in task.evaluation(config.train.eval_batches):
        for i in range(len(block["inputs"])):
            _, sums = bert.loss(params, {name: jnp.array(rows[i]) for name, rows in block.items()}, config.model)
            nats, weight = nats + float(sums["nats"]), weight + float(sums["weight"])
    assert weight == config.train.eval_batches * 4 * round(0.15 * 17)
    assert found["val_loss"] == pytest.approx(nats / weight, rel=1e-5)


def test_blanks_hide_whole_words_and_depend_on_the_parameters_alone(masked):
    config, task = masked
    first, second = (task.show(draw(bert.declare(config.model), seed), config.model, 7) for seed in (0, 1))
    assert first == task.show(draw(bert.declare(config.model)), config.model, 7)
    assert first != second
    assert first.count("[MASK]") == 12
    for line in first.splitlines()[2:-1:2]:
        word, _, guesses = line.strip().partition(";")
        assert word in set(TEXT.split()) - {"."}
        assert len(guesses.split()) == 6  # three tokens, each with its share
        assert "[" not in guesses


def test_a_translator_is_ranked_by_bleu_and_evaluated_on_every_pair(pairs):
    config, task = pairs
    assert task.rank({"val_loss": 1.0, "val_bleu": 30.0}) < task.rank({"val_loss": 0.5, "val_bleu": 29.0})
    blocks = list(task.evaluation(1))
    held_out = int(48 * config.data.validation_fraction)
    ends = sum((block["targets"] == task.tokenizer.end_of_text)[block["weights"] > 0].sum() for block in blocks)
    assert ends == held_out
    told = task.metrics({"nats": 30.0, "correct": 5.0, "weight": 20.0})
    assert (told["val_loss"], told["val_accuracy"]) == (1.5, 0.25)


def test_a_translator_shows_its_sentences_and_how_bleu_was_counted(pairs):
    config, task = pairs
    params = draw(seq2seq.declare(config.model))
    assert task.show(params, config.model, 3) == task.show(params, config.model, 3)
    scored = task.score(params, config.model, last=False)
    assert set(scored) == {"val_bleu"}
    assert 0 <= scored["val_bleu"] < 60
    shown = task.show(params, config.model, 3)
    assert shown.startswith("--- translations after 3 steps ---")
    assert "nrefs:1|case:mixed" in shown.splitlines()[-1]
    assert shown.count("source  ") == shown.count("model  ") == 4


def test_references_are_the_files_own_text_whatever_the_tokenizer_makes_of_it(tmp_path):
    (tmp_path / "pairs.tsv").write_text("".join(f"ein {a}\tA  {a}, Ünd {a}!\n" for a in "uvwxyzabcdefgh"))
    config = TrainConfig(
        objective="seq2seq",
        model=replace(TINY, architecture="encoder-decoder", vocab_size=60, n_layers=1),
        data=DataConfig(path=str(tmp_path / "pairs.tsv"), tokenizer="wordpiece", vocab_size=60, buckets=2),
        train=LoopConfig(batch_size=4),
    )
    task = objectives.find("seq2seq").open(config, tmp_path / "data")
    shown = task.show(draw(seq2seq.declare(config.model)), config.model, 0)
    references = {line.removeprefix("reference  ") for line in shown.splitlines() if line.startswith("reference")}
    assert references
    assert all(reference.startswith("A  ") and ", Ünd " in reference for reference in references)


def test_sacrebleu_is_asked_for_before_any_work(pairs, monkeypatch, tmp_path):
    config, _ = pairs
    import jaxgpt.training.seq2seq as task

    monkeypatch.setattr(task, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"sacrebleu.*pip install 'jaxgpt\[translation\]'"):
        objectives.find("seq2seq").open(config, tmp_path / "data")
    assert not (tmp_path / "data").exists()
