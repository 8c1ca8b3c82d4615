import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tyro
from tiny import unchecked

from jaxgpt.config import ModelConfig
from jaxgpt.data import DataConfig
from jaxgpt.sharding import MeshConfig
from jaxgpt.training import config as training_config
from jaxgpt.training.config import (
    LoopConfig,
    OptimizerConfig,
    TrainConfig,
    differences,
    from_json,
    load_config,
    to_json,
)

SECTIONS = {
    "model": ModelConfig,
    "data": DataConfig,
    "optimizer": OptimizerConfig,
    "train": LoopConfig,
    "mesh": MeshConfig,
}
UNUSUAL = TrainConfig(
    model=ModelConfig(n_kv_heads=4, position="rotary", rope_theta=5e5, tie_embeddings=False),
    data=DataConfig(path="a.txt", stride=3, sampling="epochs"),
    optimizer=OptimizerConfig(learning_rate=1 / 3, clip=None, schedule="wsd"),
    train=LoopConfig(batch_size=12, accumulation=3, save_every=7),
    mesh=MeshConfig(data=2, tensor=2),
    out="elsewhere",
    init_from="runs/old",
    resume=False,
    objective="masked_lm",
)
ROOT = Path(__file__).resolve().parents[2]


def test_a_config_comes_back_from_its_json():
    assert from_json(to_json(UNUSUAL)) == UNUSUAL
    written = json.loads(to_json(UNUSUAL))
    for name, kind in SECTIONS.items():
        assert list(written[name]) == [field.name for field in dataclasses.fields(kind)]


def test_a_config_of_before_there_were_other_objectives_is_read():
    written = json.loads(to_json(TrainConfig()))
    del written["objective"]
    assert from_json(json.dumps(written)).objective == "causal_lm"


@pytest.mark.parametrize(
    ("place", "field", "expected"),
    [
        ("model", "n_layer", "model.n_layer: found an unknown field, expected n_layers"),
        ("train", "stepz", "train.stepz: found an unknown field, expected steps"),
        ("", "init_form", "init_form: found an unknown field, expected init_from"),
        ("mesh", "brand_new", "mesh.brand_new: found an unknown field, expected one of data, fsdp, sequence, tensor"),
    ],
)
def test_a_field_of_another_version_is_refused_by_name(place, field, expected):
    written = json.loads(to_json(TrainConfig()))
    (written[place] if place else written)[field] = 1
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}"):
        from_json(json.dumps(written))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "found bad JSON (Expecting value: line 1 column 1 (char 0)), expected a config"),
        ('{"model": {', "found bad JSON"),
        ("[1]", "found a JSON list, expected a config"),
        ("{}", "model: found None, expected the fields of ModelConfig"),
        ('{"model": 3}', "model: found 3, expected the fields of ModelConfig"),
    ],
)
def test_what_is_no_config_is_refused(text, expected):
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}"):
        from_json(text)


def test_differences_name_the_fields_that_change_the_numbers():
    old = TrainConfig()
    changed = dataclasses.replace(old, train=LoopConfig(steps=7, keep=9), model=ModelConfig(dropout=0.5), out="b")
    assert differences(old, changed) == ["model.dropout: 0.0 there, 0.5 here", "train.steps: 1000 there, 7 here"]
    assert differences(old, dataclasses.replace(old, mesh=MeshConfig(data=2))) == []
    assert differences(old, dataclasses.replace(old, objective="seq2seq"))[0].startswith("objective: 'causal_lm' there")
    assert differences(old, dataclasses.replace(old, init_from="x")) == ["init_from: None there, 'x' here"]


@pytest.mark.parametrize("kind", [*SECTIONS.values(), TrainConfig])
def test_every_field_has_a_text_in_the_help(kind):
    for field in dataclasses.fields(kind):
        text = tyro._docstrings.get_field_docstring(kind, field.name, ())
        assert (text or "").strip().endswith("."), field.name


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OptimizerConfig(learning_rate=0.0), r"optimizer\.learning_rate: found 0.0, expected a number above 0"),
        (
            lambda: unchecked(OptimizerConfig(), learning_rate="1e-3"),
            r"optimizer\.learning_rate: found '1e-3', .*a number$",
        ),
        (lambda: unchecked(OptimizerConfig(), warmup_steps=2.5), r"optimizer\.warmup_steps: found 2.5, .* an integer"),
        (lambda: unchecked(OptimizerConfig(), clip="1"), r"optimizer\.clip: found '1', expected a number or None"),
        (
            lambda: unchecked(OptimizerConfig(), schedule="linear"),
            r"found 'linear', expected one of cosine, wsd, inv",
        ),
        (lambda: unchecked(LoopConfig(), steps=1e3), r"train\.steps: found 1000.0, expected an integer"),
        (
            lambda: unchecked(LoopConfig(), tensorboard="yes"),
            r"train\.tensorboard: found 'yes', expected True or False",
        ),
        (lambda: unchecked(LoopConfig(), sample_prompt=None), r"train\.sample_prompt: found None, expected a string"),
        (
            lambda: unchecked(TrainConfig(), objective="gpt"),
            r"^objective: found 'gpt', expected one of causal_lm, classification, instruction, mask",
        ),
        (lambda: unchecked(TrainConfig(), out=3), r"^out: found 3, expected a string"),
        (lambda: unchecked(TrainConfig(), model=None), r"^model: found None, expected ModelConfig\(\.\.\.\)"),
        (lambda: OptimizerConfig(beta2=1.0), r"optimizer\.beta2: found 1.0, expected a number in \[0, 1\)"),
        (lambda: OptimizerConfig(warmup_steps=-1), r"optimizer\.warmup_steps: found -1, expected .* at least 0"),
        (
            lambda: OptimizerConfig(learning_rate=1e-4, min_learning_rate=1e-3),
            r"optimizer\.min_learning_rate: found 0.001, expected at most optimizer\.learning_rate=0.0001",
        ),
        (lambda: OptimizerConfig(decay_fraction=0.0), r"optimizer\.decay_fraction: found 0.0, expected"),
        (lambda: OptimizerConfig(clip=0.0), r"optimizer\.clip: found 0.0, expected a number above 0, or None"),
        (lambda: LoopConfig(steps=0), r"train\.steps: found 0, expected a positive integer"),
        (lambda: LoopConfig(save_every=0), r"train\.save_every: found 0, expected a positive integer, or None"),
        (lambda: LoopConfig(seed=-1), r"train\.seed: found -1"),
        (lambda: LoopConfig(seed=10**20), r"train\.seed: found 10+, expected an integer from 0, below"),
        (lambda: LoopConfig(batch_size=10, accumulation=4), r"train\.accumulation: found 4, .* train\.batch_size=10"),
        (
            lambda: TrainConfig(mesh=MeshConfig(data=3)),
            r"train\.batch_size: found 16, .* mesh\.fsdp = 3 in each of the 1",
        ),
        (
            lambda: TrainConfig(train=LoopConfig(accumulation=8), mesh=MeshConfig(fsdp=4)),
            r"train\.batch_size: found 16, expected a multiple of mesh\.data x mesh\.fsdp = 4 in each of the 8 parts",
        ),
        (
            lambda: TrainConfig(mesh=MeshConfig(tensor=5)),
            r"mesh\.tensor: found 5, expected a divisor of model\.n_heads=12",
        ),
        (
            lambda: TrainConfig(model=ModelConfig(n_kv_heads=2), mesh=MeshConfig(tensor=4)),
            r"mesh\.tensor: found 4, expected a divisor of model\.n_kv_heads=2",
        ),
        (lambda: TrainConfig(mesh=MeshConfig(sequence=3)), r"mesh\.sequence: found 3, .* model\.context_length=1024"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("schedule", ["constant", "inverse_sqrt"])
def test_a_rate_that_does_not_end_has_no_lowest(schedule):
    OptimizerConfig(learning_rate=1e-4, min_learning_rate=1e-3, schedule=schedule)


def test_an_integer_is_a_number_too():
    assert unchecked(OptimizerConfig(), learning_rate=1, min_learning_rate=0).learning_rate == 1


def test_the_config_file_is_the_default_and_options_change_it(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from jaxgpt.training.config import *\nconfig = TrainConfig(train=LoopConfig(steps=7, batch_size=6))"
    )
    found = load_config([str(file), "--train.batch_size", "4", "--no-resume", "--optimizer.clip", "None"], "nowhere.py")
    assert (found.train.steps, found.train.batch_size, found.resume, found.optimizer.clip) == (7, 4, False, None)
    assert found.out == "runs/mine"
    assert load_config(["--out", "there"], str(file)) == dataclasses.replace(
        TrainConfig(), train=LoopConfig(steps=7, batch_size=6), out="there"
    )


def test_tensorboard_is_refused_where_its_library_is_missing(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("from jaxgpt.training.config import *\nconfig = TrainConfig()")
    argv = [str(tmp_path / "mine.py"), "--train.tensorboard"]
    assert load_config(argv, "").train.tensorboard
    monkeypatch.setattr(training_config, "find_spec", lambda name: None)
    with pytest.raises(
        SystemExit, match=r"error: train\.tensorboard: found True, .* pip install 'jaxgpt\[tensorboard\]'"
    ):
        load_config(argv, "")
    assert not load_config(argv[:1], "").train.tensorboard
    assert from_json(to_json(TrainConfig(train=LoopConfig(tensorboard=True)))).train.tensorboard  # only to be read


def test_a_run_directory_named_in_the_config_file_stays(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("from jaxgpt.training.config import *\nconfig = TrainConfig(out='elsewhere')")
    assert load_config([], str(file)).out == "elsewhere"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "error: config: found no file"),
        ("x = 1", "found config of type NoneType, expected a TrainConfig"),
        ("raise ValueError('model.d_model: found 0')", "mine.py: model.d_model: found 0"),
    ],
)
def test_a_config_file_that_is_none_is_refused(tmp_path, text, message):
    if text is not None:
        (tmp_path / "mine.py").write_text(text)
    with pytest.raises(SystemExit, match=message):
        load_config([str(tmp_path / "mine.py")], "nowhere.py")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "config = TrainConfig(model=ModelConfig(n_layer=3))",
            "model.n_layer: found an unknown field, expected n_layers",
        ),
        ("replace(ModelConfig(), n_head=3)", "model.n_head: found an unknown field, expected n_heads"),
        ("config = TrainConfig(optimiser=3)", "optimiser: found an unknown field, expected optimizer"),
        ("config = TrainConfig(data=DataConfig(vocab_size='3'))", "data.vocab_size: found '3', expected an integer"),
        ("config = TrainConfig(train=LoopConfig(steps=0.5))", "train.steps: found 0.5, expected an integer"),
    ],
)
def test_a_wrong_field_in_a_config_file_is_one_line(tmp_path, line, message):
    """In a process of its own: here the tests' type checks refuse it first."""
    file = tmp_path / "mine.py"
    imports = (
        "dataclasses import replace",
        "jaxgpt.config import *",
        "jaxgpt.data import *",
        "jaxgpt.training.config import *",
    )
    file.write_text("\n".join([*(f"from {name}" for name in imports), line]))
    code = f"from jaxgpt.training.config import load_config; load_config([{str(file)!r}], '')"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert found.stderr.splitlines()[-1] == f"error: {file}: {message}"
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda path: path.stem)
def test_the_configs_in_the_repository_load(path):
    config = load_config([str(path)], "nowhere.py")
    assert config.out == f"runs/{path.stem}"
    assert from_json(to_json(config)) == config
