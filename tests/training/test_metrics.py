import json
import math
from dataclasses import replace

import pytest

from jaxgpt.config import gpt2, llama
from jaxgpt.training.metrics import MetricsFile, flops_per_token, peak_flops, read_rows, validation_metrics


def test_operations_a_token_of_gpt2_by_hand():
    matrices = 12 * (4 * 768 * 768 + 2 * 768 * 3072) + 768 * 50257  # blocks, head; positions cost an addition
    attention = 12 * 2 * 768 * (1024 / 2)  # a layer's scores and mixture over the mean context, forward
    assert flops_per_token(gpt2()) == 6 * matrices + 6 * attention == 797_815_296


def test_operations_count_what_a_shape_has():
    cfg = llama()  # the published one: 3 matrices an MLP
    blocks = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    assert flops_per_token(cfg) == 6 * (blocks + 4096 * 32000) + 6 * 32 * 2 * 4096 * 2048
    shared = replace(cfg, n_kv_heads=8)
    assert flops_per_token(cfg) - flops_per_token(shared) == 6 * 32 * 2 * 4096 * (4096 - 1024)
    assert flops_per_token(cfg) - flops_per_token(replace(cfg, window=48)) == 6 * 32 * 2 * 4096 * (2048 - 48)
    assert flops_per_token(replace(cfg, window=4096)) == flops_per_token(cfg)


def test_peaks_go_by_the_beginning_of_the_name():
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("TPU v5 lite") == 197e12
    assert peak_flops("TPU v5") == 459e12
    assert peak_flops("cpu") is None


def test_bits_a_byte_by_hand():
    # 2 ln 2 nats are 2 bits a token; with 4 bytes a token, half a bit a byte.
    found = validation_metrics(2 * math.log(2), 4.0)
    assert found == pytest.approx({"val_loss": 1.386294, "val_perplexity": 4.0, "val_bits_per_byte": 0.5}, rel=1e-6)
    assert math.isfinite(validation_metrics(1e6, 1.0)["val_perplexity"])


def test_rows_are_on_disk_once_written(tmp_path):
    file = MetricsFile(tmp_path, 0)
    file.write({"step": 0, "val_loss": 3.5})
    assert read_rows(tmp_path / "metrics.jsonl") == [{"step": 0, "val_loss": 3.5}]
    file.write({"step": 0, "val_loss": 9.0})  # there already
    file.write({"step": 10, "train_loss": 0.1 + 0.2})
    assert (tmp_path / "metrics.jsonl").read_text().splitlines()[1:] == [
        '{"step": 10, "train_loss": 0.30000000000000004}'
    ]
    file.close()


@pytest.mark.parametrize("cut", [1, 5, 14])
def test_a_last_line_cut_short_by_a_crash_is_left_out(tmp_path, cut):
    rows = [{"step": step, "train_loss": step / 7} for step in (10, 20, 30)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "metrics.jsonl").write_text(text[: -1 - cut])
    assert read_rows(tmp_path / "metrics.jsonl") == rows[:2]
    file = MetricsFile(tmp_path, 20)
    file.write(rows[2])
    file.close()
    assert (tmp_path / "metrics.jsonl").read_text() == text


def test_going_on_drops_the_rows_that_will_be_made_again(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("".join(f'{{"step": {step}}}\n' for step in (0, 10, 20, 30)))
    file = MetricsFile(tmp_path, 20)
    assert [row["step"] for row in read_rows(file.path)] == [0, 10, 20]
    file.write({"step": 20})
    file.write({"step": 25})
    file.close()
    assert [row["step"] for row in read_rows(file.path)] == [0, 10, 20, 25]
    MetricsFile(tmp_path, 0).close()  # from the beginning: nothing is kept
    assert read_rows(file.path) == []


def test_no_file_has_no_rows(tmp_path):
    assert read_rows(tmp_path / "metrics.jsonl") == []


def test_tensorboard_gets_the_numbers(tmp_path):
    pytest.importorskip("tensorboardX")
    file = MetricsFile(tmp_path, 0, tensorboard=True)
    file.write({"step": 10, "train_loss": 1.5})
    file.close()
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"train_loss" in events.read_bytes()
