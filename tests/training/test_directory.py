import re
from dataclasses import replace

import jax
import pytest

from jaxgpt.config import ModelConfig
from jaxgpt.data import DataConfig
from jaxgpt.model import GenerationDefaults, Settings
from jaxgpt.tokenizers import CharTokenizer
from jaxgpt.training import directory
from jaxgpt.training.config import LoopConfig, TrainConfig
from jaxgpt.training.init_from import adopt

TOKENIZER = CharTokenizer.train(["abcdefghij"])
SMALL = ModelConfig(vocab_size=4, context_length=16, d_model=16, n_layers=1, n_heads=2)


def config_of(folder, **changes):
    return replace(TrainConfig(model=SMALL, out=str(folder)), **changes)


def started(config, labels=()):
    """As train.py does it."""
    folder = directory.claim(config)
    directory.write(folder, directory.settle(config, TOKENIZER.vocab_size, labels), TOKENIZER, Settings(labels=labels))
    (folder / "checkpoints" / "10").mkdir(parents=True)
    return folder


def test_a_new_directory_is_made_with_those_above_it(tmp_path):
    assert directory.claim(config_of(tmp_path / "a" / "b")).is_dir()


def test_the_same_config_may_go_on_though_its_vocabulary_has_grown(tmp_path):
    config = config_of(tmp_path / "run")
    started(config)
    assert directory.read_config(tmp_path / "run").model.vocab_size == 10
    assert directory.claim(config) == tmp_path / "run"
    directory.claim(replace(config, train=LoopConfig(keep=5, log_every=1)))  # nothing that a number depends on


def test_another_config_is_refused_with_the_fields_that_differ(tmp_path):
    config = config_of(tmp_path / "run")
    started(config)
    other = replace(config, train=LoopConfig(steps=7), model=replace(SMALL, d_model=32))
    with pytest.raises(ValueError, match=r"model\.d_model: 16 there, 32 here; train\.steps: 1000 there, 7 here\), exp"):
        directory.claim(other)
    with pytest.raises(ValueError, match=r"model\.vocab_size: 10 there, 11 here"):
        directory.claim(replace(config, model=replace(SMALL, vocab_size=11)))


def test_without_resuming_the_old_run_is_moved_aside_whole(tmp_path):
    config = config_of(tmp_path / "run")
    (started(config) / "note").write_text("first")
    said = []
    directory.claim(replace(config, resume=False), said.append)
    assert said == [f"out: moved the run in {tmp_path / 'run'} to {tmp_path / 'run.1'}"]
    assert list((tmp_path / "run").iterdir()) == []
    assert (tmp_path / "run.1" / "note").read_text() == "first"
    started(config)
    directory.claim(replace(config, resume=False))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run", "run.1", "run.2"]


def test_a_run_that_lost_its_config_is_moved_aside_or_refused(tmp_path):
    config = config_of(tmp_path / "run")
    (started(config) / "train_config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"run: found no train_config\.json"):
        directory.claim(config)
    directory.claim(replace(config, resume=False), lambda _: None)
    assert (tmp_path / "run.1" / "checkpoints" / "10").is_dir()
    assert list((tmp_path / "run").iterdir()) == []


def test_a_run_without_a_checkpoint_stands_in_no_way(tmp_path):
    config = config_of(tmp_path / "run")
    (started(config) / "checkpoints" / "10").rmdir()
    directory.claim(replace(config, train=LoopConfig(steps=7)))


def test_of_several_processes_one_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    directory.write(tmp_path, config_of(tmp_path), TOKENIZER, Settings())
    assert list(tmp_path.iterdir()) == []


def test_no_run_makes_way_for_one_that_cannot_begin(tmp_path):
    config = config_of(tmp_path / "run", resume=False)
    (started(config_of(tmp_path / "run")) / "note").write_text("first")
    with pytest.raises(FileNotFoundError, match=r"data\.path: found /nowhere"):
        directory.claim(replace(config, data=replace(config.data, path="/nowhere")))
    assert (tmp_path / "run" / "note").read_text() == "first"


def test_a_run_of_pairs_makes_way_where_both_files_are_there(tmp_path):
    (tmp_path / "text.de").write_text("ja\n")
    named = DataConfig(path=str(tmp_path / "text"), source="de", target="en")
    config = config_of(tmp_path / "run", objective="seq2seq", data=named, resume=False)
    (started(config_of(tmp_path / "run")) / "note").write_text("first")
    with pytest.raises(FileNotFoundError, match=r"data\.path: .*text"):
        directory.claim(config)
    assert (tmp_path / "run" / "note").read_text() == "first"
    (tmp_path / "text.en").write_text("yes\n")
    directory.claim(config)
    assert (tmp_path / "run.1" / "note").read_text() == "first"


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(ValueError, match=r"out: found the file .*run, expected a folder or a new name"):
        directory.claim(config_of(tmp_path / "run"))
    assert (tmp_path / "run").read_text() == "mine"


def test_a_folder_that_is_no_run_has_no_config(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"found no train_config\.json, expected a run directory"):
        directory.read_config(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"), [("", "found bad JSON"), ('{"model": {"n_layer": 3}}', "model.n_layer: found")]
)
def test_a_broken_config_is_named_with_its_file(tmp_path, text, expected):
    file = tmp_path / directory.CONFIG_FILE
    file.write_text(text)
    with pytest.raises(ValueError, match=re.escape(f"{file}: {expected}")):
        directory.read_config(tmp_path)


def test_starting_from_a_run_takes_its_shape_and_tokenizer_not_how_it_computes(tmp_path):
    source = started(config_of(tmp_path / "run"))
    wanted = ModelConfig(d_model=64, n_heads=4, dropout=0.1, remat="full", scan_layers=True)
    said = []
    found = adopt(config_of(tmp_path / "new", model=wanted, init_from=str(source)), said.append)
    assert said == [
        f"init_from: model and tokenizer are those of {source}; "
        "of --model.* only head, n_classes, pooler_activation, dropout, label_smoothing, dtype, attention, "
        "scan_layers, remat are this run's"
    ]
    assert found.model == replace(SMALL, vocab_size=10, dropout=0.1, remat="full", scan_layers=True)
    assert found.data.tokenizer == f"saved:{source}"
    with pytest.raises(ValueError, match=r"found 'no checkpoint in .*', expected a run that has"):
        adopt(config_of(tmp_path / "new", init_from=str(tmp_path)))


def test_a_start_may_have_another_head(tmp_path):
    encoder = replace(SMALL, architecture="encoder", head="pretraining", vocab_size=10)
    source = started(config_of(tmp_path / "run", model=encoder))
    wanted = replace(encoder, head="sequence", n_classes=3, label_smoothing=0.1)
    config = config_of(tmp_path / "new", model=wanted, init_from=str(source))
    assert adopt(config, lambda _: None).model == wanted


def test_starting_from_a_run_needs_its_checkpoint_and_going_on_does_not_need_that_run(tmp_path):
    source = started(config_of(tmp_path / "source"))
    config = config_of(tmp_path / "run", init_from=str(source))
    started(adopt(config))
    (source / "checkpoints" / "10").rmdir()
    with pytest.raises(ValueError, match=r"init_from: found .no checkpoint in .*source., expected a run that has"):
        adopt(replace(config, out=str(tmp_path / "new")))
    source.rename(tmp_path / "gone")
    assert adopt(config).model == replace(SMALL, vocab_size=10)


def test_a_vocabulary_grows_unless_its_parameters_are_there_already(tmp_path):
    config = config_of(tmp_path / "run")
    assert directory.settle(config, 10).model.vocab_size == 10
    assert directory.settle(config, 3).model.vocab_size == 4
    with pytest.raises(ValueError, match=r"model\.vocab_size: found 4 in old, expected the tokenizer's 10"):
        directory.settle(replace(config, init_from="old"), 10)


def test_a_model_gets_a_head_for_the_classes(tmp_path):
    config = config_of(tmp_path / "run")
    assert directory.settle(config, 3, ("a", "b", "c")).model == replace(SMALL, head="sequence", n_classes=3)
    told = replace(config, model=replace(SMALL, head="sequence", n_classes=3))
    assert directory.settle(told, 3, ("a", "b", "c")).model == told.model
    with pytest.raises(ValueError, match=r"model\.n_classes: found 3, expected 2, or none"):
        directory.settle(told, 3, ("a", "b"))
    another = replace(told, init_from="old")  # whose head is `same_classes`' to judge
    assert directory.settle(another, 3, ("a", "b")).model.n_classes == 2


def test_a_run_with_classes_goes_on_as_the_same(tmp_path):
    config = config_of(tmp_path / "run", objective="classification")
    folder = started(config, ("ham", "spam"))
    assert directory.read_config(folder).model.n_classes == 2
    assert directory.claim(config) == folder
    with pytest.raises(ValueError, match=r"train\.new_head: False there, True here"):
        directory.claim(replace(config, train=LoopConfig(new_head=True)))


def test_settings_are_read_as_they_were_written(tmp_path):
    settings = Settings(
        "gpt2", GenerationDefaults(end_tokens=(3, 4), beam=2), ("ham", "späm"), "mean", True, 7, (("a", "b"),)
    )
    assert directory.read_settings(tmp_path) == Settings()  # a run of an older version
    directory.write(tmp_path, config_of(tmp_path), TOKENIZER, settings)
    assert directory.read_settings(tmp_path) == settings
    file = tmp_path / directory.SETTINGS_FILE
    for text, message in (
        ("{", "bad JSON"),
        ('{"label": []}', r"label: found an unknown field, expected labels"),
        ("[]", ""),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=rf"settings\.json.*{message}"):
            directory.read_settings(tmp_path)


def test_a_run_does_not_start_from_itself(tmp_path):
    config = config_of(tmp_path / "run")
    (started(config) / "note").write_text("first")
    again = replace(config, init_from=f"{tmp_path}/x/../run", resume=False)
    with pytest.raises(ValueError, match=r"init_from: found the run directory \(out\) itself, expected another run"):
        directory.claim(again)
    assert (tmp_path / "run" / "note").read_text() == "first"
