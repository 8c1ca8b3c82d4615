import json
import math
import time
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from jaxgpt.config import ModelConfig
from jaxgpt.training import report as report_module
from jaxgpt.training.config import LoopConfig, OptimizerConfig, TrainConfig
from jaxgpt.training.metrics import read_rows
from jaxgpt.training.report import NonFiniteError, Report

CONFIG = TrainConfig(
    model=ModelConfig(vocab_size=10, context_length=8, d_model=8, n_layers=1, n_heads=2),
    optimizer=OptimizerConfig(learning_rate=0.5, warmup_steps=4, schedule="constant"),
    train=LoopConfig(steps=24, batch_size=4, log_every=3, eval_every=12),
)


def metrics_of(*losses, norm=1.0):
    """Of a block that has room for two steps more than were made."""
    return {"loss": jnp.array([*losses, 0.0, 0.0]), "grad_norm": jnp.full(len(losses) + 2, norm)}


def rows(run):
    return read_rows(run / "metrics.jsonl")


def test_rows_come_one_dispatch_later(tmp_path):
    with Report(tmp_path, CONFIG, 0) as report:
        report.dispatched(0, 6, metrics_of(*range(1, 7)), 100)
        assert rows(tmp_path) == []
        report.dispatched(6, 10, metrics_of(*range(7, 11)), 100)
        assert [(row["step"], row["train_loss"]) for row in rows(tmp_path)] == [(3, 3.0), (6, 6.0)]
        with report.pause():
            assert [row["step"] for row in rows(tmp_path)] == [3, 6, 9]
        report.settle()
        assert len(rows(tmp_path)) == 3


def test_a_row_has_the_documented_numbers(tmp_path):
    with Report(tmp_path, CONFIG, 0) as report:
        report.dispatched(0, 3, metrics_of(3.0, 2.5, 2.0, norm=0.25), 96)
        report.settle()
        report.dispatched(3, 12, metrics_of(*[1.5] * 9), 288)
        with report.pause():
            pass
        report.evaluated(12, {"val_loss": 1.0, "val_bleu": 25.0})
    first, *_, last = rows(tmp_path)
    assert 0 < first.pop("seconds") <= last.pop("seconds")
    assert first.pop("tokens_per_second") > 0
    # The third of four warm-up steps has 3/5 of the rate.
    wanted = {"step": 3, "train_loss": 2.0, "train_perplexity": math.exp(2), "grad_norm": 0.25, "learning_rate": 0.3}
    assert first == pytest.approx(wanted)
    assert last.pop("tokens_per_second") > 0
    assert last == pytest.approx(
        {"step": 12, "train_loss": 1.5, "train_perplexity": math.exp(1.5), "grad_norm": 1.0, "learning_rate": 0.5}
        | {"val_loss": 1.0, "val_bleu": 25.0}
    )
    assert [row["step"] for row in rows(tmp_path)] == [3, 6, 9, 12]  # one row of step 12, with both losses


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["loss", "grad_norm"])
def test_a_step_that_is_not_finite_is_named(tmp_path, value, name):
    metrics = metrics_of(1.0, 2.0, 3.0, 4.0, 5.0)
    metrics[name] = metrics[name].at[3].set(value)
    with Report(tmp_path, CONFIG, 6) as report:
        report.dispatched(6, 11, metrics, 100)
        with pytest.raises(NonFiniteError, match="step 10: found loss"), report.pause():
            pytest.fail("a checkpoint would be saved here")
    assert [row["step"] for row in rows(tmp_path)] == [9]


def test_what_a_block_holds_beyond_its_steps_is_no_step(tmp_path):
    metrics = metrics_of(1.0, 2.0)
    metrics["loss"] = metrics["loss"].at[2:].set(math.nan)
    with Report(tmp_path, replace(CONFIG, train=replace(CONFIG.train, log_every=1)), 0) as report:
        report.dispatched(0, 2, metrics, 100)
        report.settle()
    assert [row["step"] for row in rows(tmp_path)] == [1, 2]


def test_a_validation_loss_that_is_not_finite_is_named(tmp_path):
    with Report(tmp_path, CONFIG, 0) as report, pytest.raises(NonFiniteError, match="step 12: found validation"):
        report.evaluated(12, {"val_loss": math.nan, "val_accuracy": 1.0})
    assert rows(tmp_path) == []


def test_of_several_processes_one_writes_and_all_raise(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with Report(tmp_path, CONFIG, 0) as report:
        report.dispatched(0, 3, metrics_of(1.0, 2.0, 3.0), 100)
        report.settle()
        report.evaluated(3, {"val_loss": 1.0})
        report.plot()
        report.dispatched(3, 4, metrics_of(math.nan), 100)
        with pytest.raises(NonFiniteError, match="step 4"):
            report.settle()
    assert not list(tmp_path.iterdir())


def test_the_plot_is_of_all_rows(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 3, "train_loss": 2.0}) + "\n")
    with Report(tmp_path, CONFIG, 3) as report:
        assert [row["step"] for row in rows(tmp_path)] == [3]
        report.plot()
    assert (tmp_path / "loss.png").read_bytes()[:4] == b"\x89PNG"


class Clock:
    """time.perf_counter that goes on when told to."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)


def test_speed_is_of_the_tokens_read_without_pauses_and_seconds_count_all_and_go_on(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    monkeypatch.setattr(report_module, "peak_flops", lambda kind: 1e6)
    for begin, before in ((0, 0.0), (12, 7.0)):  # the second is the same run resumed, much later
        with Report(tmp_path, CONFIG, begin, flops_per_token=500) as report:
            report.dispatched(begin, begin + 12, metrics_of(*[1.0] * 12), 800)
            clock.now += 4
            with report.pause():
                clock.now += 3
            report.evaluated(begin + 12, {"val_loss": 1.0})
        row = rows(tmp_path)[-1]
        assert (row["step"], row["tokens_per_second"], row["seconds"]) == (begin + 12, 200.0, before + 7)
        assert row["mfu"] == pytest.approx(200 * 500 / 1e6)
        clock.now += 1000


def test_no_mfu_is_told_where_the_operations_are_not_known(tmp_path, monkeypatch):
    monkeypatch.setattr(report_module, "peak_flops", lambda kind: 1e6)
    with Report(tmp_path, CONFIG, 0) as report:
        report.dispatched(0, 3, metrics_of(1.0, 1.0, 1.0), 100)
        report.settle()
    assert "mfu" not in rows(tmp_path)[0]


def test_an_evaluation_is_shown_with_what_the_loss_stands_for(tmp_path, capsys):
    with Report(tmp_path, CONFIG, 0) as report:
        report.evaluated(12, {"val_loss": 1.25, "val_accuracy": 0.5, "val_bleu": 27.345, "val_perplexity": 3.4903})
    assert capsys.readouterr().out == "step 12/24  val 1.2500  accuracy 0.5000  BLEU 27.34\n"
