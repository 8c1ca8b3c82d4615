"""The table of objectives, and what a task is unless it says otherwise."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tiers import few

from jaxgpt import gpt
from jaxgpt.config import ModelConfig
from jaxgpt.data import DataConfig
from jaxgpt.training import objectives
from jaxgpt.training.config import LoopConfig, TrainConfig, from_json, to_json

PAIRED = ModelConfig(architecture="encoder-decoder")
ROOT = Path(__file__).resolve().parents[2]


def test_an_objective_is_found_by_its_name():
    found = objectives.find("causal_lm")
    assert (found.architectures, found.declare, found.loss) == (("decoder",), gpt.declare, gpt.loss)
    assert found is objectives.find("causal_lm")  # a static argument of jit: one program


def test_an_unknown_one_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"^objective: found 'casual_lm', expected one of .*nearest: causal_lm"):
        objectives.find("casual_lm")


def test_a_model_of_another_architecture_is_refused():
    objective = objectives.find("causal_lm")
    objective.check(TrainConfig())
    expected = r"^model\.architecture: found 'encoder', expected 'decoder', which objective='causal_lm' trains"
    with pytest.raises(ValueError, match=expected):
        objective.check(TrainConfig(model=ModelConfig(architecture="encoder")))


@pytest.mark.parametrize("name", objectives.MODULES)
def test_the_table_has_an_objective_for_each_name(name):
    assert isinstance(objectives.find(name), objectives.Objective)


@pytest.mark.parametrize("name", few(objectives.MODULES, 2))
def test_a_run_imports_its_own_objective_only(name):
    code = f"import sys; from jaxgpt.training import objectives; objectives.find({name!r}); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    imported = set(run.stdout.split())
    assert imported & set(objectives.MODULES.values()) == {objectives.MODULES[name]}


def test_a_task_ranks_by_its_loss_and_knows_no_more_unless_it_says_so():
    class Plain(objectives.Task):
        def evaluation(self, n):
            return iter(())

        def metrics(self, sums):
            return {}

        def show(self, params, cfg, step):
            return ""

    task = Plain()
    assert task.rank({"val_loss": 1.5, "val_bleu": 9.0}) == 1.5
    assert task.score({}, ModelConfig(), last=True) == {}
    assert task.flops_per_token(ModelConfig()) is None
    task.check(TrainConfig())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data": DataConfig(whole_word=True)},
            "data.whole_word: found True, expected False, as obj",
        ),
        ({"data": DataConfig(source="de")}, "data.source: found 'de', expected 'source', as objective='causal_lm'"),
        (
            {"objective": "seq2seq", "model": PAIRED, "data": DataConfig(stride=3)},
            "data.stride: found 3, expected None, as objective='seq2seq' does not read it",
        ),
        (
            {"objective": "seq2seq", "model": PAIRED, "train": LoopConfig(sample_prompt="a")},
            "train.sample_prompt: found 'a', expected '', as objective='seq2seq' does not read it",
        ),
        (
            {"objective": "masked_lm", "model": replace(PAIRED, architecture="encoder", head="none")},
            "model.head: found 'none', expected lm or pretraining, as objective='masked_lm' trains it",
        ),
    ],
)
def test_what_an_objective_does_not_train_or_read_is_refused(changes, message):
    config = replace(TrainConfig(), **changes)
    with pytest.raises(ValueError, match=f"^{message}"):
        objectives.find(config.objective).check(config)
    from_json(to_json(config))  # a saved run is read all the same
