import json

import pytest

from jaxgpt.training.metrics import MetricsFile, peak_flops, read_rows


def test_peaks_go_by_the_beginning_of_the_name():
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("TPU v5 lite") == 197e12
    assert peak_flops("TPU v5") == 459e12
    assert peak_flops("cpu") is None


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
    assert file.seconds == 0  # rows of before they had them
    MetricsFile(tmp_path, 0).close()  # from the beginning: nothing is kept
    assert read_rows(file.path) == []


def test_the_seconds_of_the_kept_rows_are_known(tmp_path):
    rows = [{"step": step, "seconds": step / 4} for step in (0, 10, 20, 30)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for step, seconds in ((25, 5.0), (10, 2.5), (0, 0.0)):
        file = MetricsFile(tmp_path, step)
        assert file.seconds == seconds
        file.close()


def test_no_file_has_no_rows(tmp_path):
    assert read_rows(tmp_path / "metrics.jsonl") == []


def test_tensorboard_gets_the_numbers(tmp_path):
    pytest.importorskip("tensorboardX")
    file = MetricsFile(tmp_path, 0, tensorboard=True)
    file.write({"step": 10, "train_loss": 1.5})
    file.close()
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"train_loss" in events.read_bytes()
