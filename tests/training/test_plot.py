import numpy as np
import pytest
from matplotlib.image import imread

from jaxgpt.training.plot import _running_mean, plot_loss

TRAIN = [{"step": step, "train_loss": 3 - step / 50} for step in range(10, 60, 10)]
VAL = [{"step": 0, "val_loss": 3.2}, {"step": 50, "val_loss": 2.2}]


def drawn(rows, path):
    plot_loss(rows, path, "a run")
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # nothing half-written is left
    return imread(path)


def test_the_plot_is_a_png_and_shows_both_losses(tmp_path):
    both, train, val, none = (drawn(rows, tmp_path / "loss.png") for rows in (TRAIN + VAL, TRAIN, VAL, []))
    assert (tmp_path / "loss.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert both.shape == (504, 864, 4)

    def has(image, rgb):
        return bool((np.abs(image[..., :3] - np.array(rgb) / 255).max(axis=-1) < 0.01).any())

    blue, orange = (31, 119, 180), (255, 127, 14)
    assert [has(image, blue) for image in (both, train, val, none)] == [True, True, False, False]
    assert [has(image, orange) for image in (both, train, val, none)] == [True, False, True, False]


def test_the_running_mean_starts_at_the_first_value_and_follows():
    assert _running_mean([4.0]) == pytest.approx([4.0])
    assert _running_mean([5.0, 5.0, 5.0]) == pytest.approx([5.0, 5.0, 5.0])
    assert _running_mean([1.0, 0.0], share=0.1) == pytest.approx([1.0, 0.09 / 0.19])
