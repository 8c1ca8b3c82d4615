"""What a classifier begins with: another run or a checkpoint, with its head or a new one."""

import re
from dataclasses import replace

import decoder_peers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import peers
import pytest
from test_directory import SMALL, TOKENIZER, config_of, started
from tiny import draw

from jaxgpt.loading import load
from jaxgpt.model import Settings, declarations
from jaxgpt.sharding import make_mesh
from jaxgpt.training import directory
from jaxgpt.training.checkpoints import Checkpoints
from jaxgpt.training.config import LoopConfig
from jaxgpt.training.init_from import adopt, parameters, same_classes
from jaxgpt.training.loop import restore_or_init
from jaxgpt.training.state import TrainState

NEW = LoopConfig(new_head=True)


def quiet(line):
    pass


def run_of(folder, labels=("ham", "spam")):
    """A directory whose run has told these classes."""
    return started(config_of(folder, objective="classification"), labels)


def begun(folder, source, **changes):
    return config_of(folder, objective="classification", init_from=str(source), **changes)


def test_a_run_of_another_head_begins_with_its_body(tmp_path):
    source = started(config_of(tmp_path / "source"))
    found = adopt(begun(tmp_path / "new", source, model=replace(SMALL, d_model=64, dropout=0.1)), quiet)
    assert directory.settle(found, 10, ("a", "b", "c")).model == replace(
        SMALL, vocab_size=10, dropout=0.1, head="sequence", n_classes=3
    )
    assert same_classes(found, ("a", "b", "c"), pytest.fail) == ("a", "b", "c")


def test_classes_keep_the_order_of_the_head_that_they_begin_with(tmp_path):
    source = run_of(tmp_path / "source", ("spam", "ham"))
    config = begun(tmp_path / "new", source)
    assert adopt(config, quiet).model == replace(SMALL, vocab_size=10, head="sequence", n_classes=2)
    assert same_classes(config, ("ham", "spam"), pytest.fail) == ("spam", "ham")
    assert same_classes(replace(config, init_from=None), ("ham", "spam"), pytest.fail) == ("ham", "spam")
    assert same_classes(replace(config, train=NEW), ("ham", "spam"), pytest.fail) == ("ham", "spam")
    for classes in (("eggs", "spam"), ("eggs", "ham", "spam"), ("ham",)):
        expected = "init_from's spam, ham, or --train.new_head to begin its head anew"
        message = f"data.label: classes: found {list(classes)}, expected {expected}"
        with pytest.raises(ValueError, match=re.escape(message)):
            same_classes(config, classes)
        assert same_classes(replace(config, train=NEW), classes, pytest.fail) == classes


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Of three classes whose names say nothing."""
    folder = tmp_path_factory.mktemp("checkpoint")
    values = decoder_peers.GPT2 | {"num_labels": 3, "pad_token_id": 0}
    decoder_peers.save(decoder_peers.make("GPT2", values, "SequenceClassification"), folder)
    return folder


def test_classes_without_names_are_taken_as_they_come(checkpoint, tmp_path):
    config, said = begun(tmp_path / "new", checkpoint), []
    assert adopt(config, quiet).model.n_classes == 3
    assert same_classes(config, ("a", "b", "c"), said.append) == ("a", "b", "c")
    assert said == ["init_from: its classes have no names; they are taken to be a, b, c, in this order"]
    message = (
        "data.label: classes: found ['a', 'b'], expected init_from's LABEL_0, LABEL_1, LABEL_2, or --train.new_head"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        same_classes(config, ("a", "b"))


@pytest.mark.parametrize("name", ["bert-lm", "bert-pretraining", "bert-bare", "distilbert-lm", "roberta-token"])
def test_an_encoder_of_any_head_may_learn_classes(name, tmp_path):
    pytest.importorskip("transformers")
    kind, values = peers.ENCODERS[name]
    peers.make(kind, values, tmp_path)
    config = directory.settle(adopt(begun(tmp_path / "new", tmp_path), quiet), 23, ("a", "b", "c"))
    declared = declarations(config.model)
    assert (config.model.head, config.model.n_classes) == ("sequence", 3)
    source = parameters(str(tmp_path), make_mesh())
    shapes = [jax.tree.map(lambda p: p.shape, tree) for tree in (declared, source)]
    assert shapes[0]["layers"] == shapes[1]["layers"]
    assert shapes[0]["embedding"] == shapes[1]["embedding"]
    assert declared["classifier"]["kernel"].shape[-1] == 3
    assert same_classes(config, ("a", "b", "c"), pytest.fail) == ("a", "b", "c")


@pytest.mark.parametrize("train", [LoopConfig(), NEW], ids=["its head", "a new head"])
def test_the_head_is_init_froms_unless_a_new_one_is_asked_for(checkpoint, tmp_path, train, capsys):
    config = directory.settle(adopt(begun(tmp_path / "new", checkpoint, train=train), quiet), 61, ("a", "b", "c"))
    optimizer = optax.sgd(0.1)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        state = restore_or_init(config, checkpoints, declarations(config.model), optimizer, make_mesh(), "text")
    source = parameters(str(checkpoint), make_mesh())
    new = train.new_head
    same = (np.asarray(state.params["classifier"]["kernel"]) == source["classifier"]["kernel"]).all()
    assert same == (not new)
    assert ("init_from: starting anew: classifier/kernel" in capsys.readouterr().out) == new
    rest = [{name: x for name, x in tree.items() if name != "classifier"} for tree in (state.params, source)]
    jax.tree.map(np.testing.assert_array_equal, *rest)


def test_a_run_goes_on_though_what_it_began_with_is_gone(tmp_path):
    """And a name that another spelling names too makes no other run of it."""
    source = run_of(tmp_path / "source", ("spam", "ham"))
    config = begun(tmp_path / "run", f"{source}/")
    first = adopt(config, quiet)
    started(first, same_classes(first, ("ham", "spam")))
    source.rename(tmp_path / "gone")
    again = adopt(config, quiet)
    assert again.data.tokenizer == first.data.tokenizer == f"saved:{source}"
    assert same_classes(again, ("ham", "spam"), pytest.fail) == ("spam", "ham")
    assert directory.claim(again) == tmp_path / "run"
    with pytest.raises(FileNotFoundError, match="init_from: "):
        adopt(replace(config, resume=False), quiet)


def test_a_loaded_run_has_the_names_of_its_classes(tmp_path):
    cfg = replace(SMALL, vocab_size=10, head="sequence", n_classes=2)
    params, optimizer = draw(declarations(cfg)), optax.sgd(0.1)
    directory.write(tmp_path, config_of(tmp_path, model=cfg), TOKENIZER, Settings(labels=("spam", "ham")))
    with Checkpoints(tmp_path / directory.CHECKPOINTS) as checkpoints:
        checkpoints.save(TrainState(jnp.array(1), params, optimizer.init(params), jax.random.key(0)), "text", {})
        checkpoints.wait()
    model = load(tmp_path)
    assert model.settings.labels == ("spam", "ham")
    np.testing.assert_array_equal(model.params["classifier"]["kernel"], params["classifier"]["kernel"])
