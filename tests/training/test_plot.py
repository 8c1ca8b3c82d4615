import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from jaxgpt.training.plot import _quality, _running_mean, plot_confusion, plot_loss

BLUE, ORANGE, GREEN = (31, 119, 180), (255, 127, 14), (44, 160, 44)
TRAIN = [{"step": step, "train_loss": 3 - step / 50} for step in range(10, 60, 10)]
VAL = [{"step": 0, "val_loss": 3.2}, {"step": 50, "val_loss": 2.2}]


def drawn(rows, path):
    plot_loss(rows, path, "a run")
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # nothing half-written is left
    return imread(path)


def has(image, rgb):
    return bool((np.abs(image[..., :3] - np.array(rgb) / 255).max(axis=-1) < 0.01).any())


def drop(row):
    return {name: value for name, value in row.items() if name != "seconds"}


def test_the_plot_is_a_png_and_shows_both_losses(tmp_path):
    both, train, val, none = (drawn(rows, tmp_path / "loss.png") for rows in (TRAIN + VAL, TRAIN, VAL, []))
    assert (tmp_path / "loss.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert both.shape == (504, 864, 4)

    assert [has(image, BLUE) for image in (both, train, val, none)] == [True, True, False, False]
    assert [has(image, ORANGE) for image in (both, train, val, none)] == [True, False, True, False]


@pytest.mark.parametrize("name", ["val_bleu", "val_accuracy"])
def test_what_the_loss_stands_for_has_a_panel_below(tmp_path, name):
    rows = [row | {name: 0.2 + row["step"] / 100} for row in VAL]
    image = drawn(TRAIN + rows, tmp_path / "loss.png")
    assert image.shape == (864, 864, 4)
    upper, lower = image[:432], image[432:]
    assert [has(upper, colour) for colour in (BLUE, ORANGE, GREEN)] == [True, True, False]
    assert [has(lower, colour) for colour in (BLUE, ORANGE, GREEN)] == [False, False, True]


def test_the_panel_below_is_over_minutes_where_every_row_has_its_seconds():
    rows = [row | {"val_bleu": 20.0 + row["step"], "val_accuracy": 0.5, "seconds": 30.0 + row["step"]} for row in VAL]
    for given, label, places in ((rows, "minutes", [0.5, 80 / 60]), ([*rows[:1], drop(rows[1])], "step", [0, 50])):
        axes = Figure().add_subplot()
        _quality(axes, given, "val_bleu")
        assert (axes.get_xlabel(), axes.get_ylabel()) == (label, "BLEU")
        assert [list(values) for values in axes.lines[0].get_data()] == [places, [20.0, 70.0]]


def test_the_running_mean_starts_at_the_first_value_and_follows():
    assert _running_mean([4.0]) == pytest.approx([4.0])
    assert _running_mean([5.0, 5.0, 5.0]) == pytest.approx([5.0, 5.0, 5.0])
    assert _running_mean([1.0, 0.0], share=0.1) == pytest.approx([1.0, 0.09 / 0.19])


@pytest.mark.parametrize("n", [2, 5, 9, 25])
def test_the_picture_of_confusion_has_its_names_shares_and_numbers(tmp_path, monkeypatch, n):
    """By what matplotlib was given: each row is shaded by its shares, each cell up to 20 classes has its number."""
    counts = np.random.default_rng(0).integers(1, 40, (n, n)).astype(float)
    counts[-1] = 0  # of which there was no text
    labels = [f"class {i}" for i in range(n)]
    figures = []
    monkeypatch.setattr("matplotlib.figure.Figure", lambda **options: figures.append(Figure(**options)) or figures[-1])
    plot_confusion(counts, labels, tmp_path / "confusion.png")
    assert [file.name for file in tmp_path.iterdir()] == ["confusion.png"]
    (axes,) = figures[0].axes
    assert [[text.get_text() for text in ticks] for ticks in (axes.get_xticklabels(), axes.get_yticklabels())] == [
        labels
    ] * 2
    shares = counts / np.maximum(counts.sum(1), 1)[:, None]
    np.testing.assert_allclose(axes.images[0].get_array(), shares)
    assert axes.images[0].get_clim() == (0, 1)
    assert axes.get_title() == f"{np.trace(counts) / counts.sum():.1%} of {counts.sum():,.0f} right"
    told = {text.get_position(): text.get_text() for text in axes.texts}
    wanted = {(j, i): f"{counts[i, j]:.0f}\n{shares[i, j]:.1%}" for i in range(n) for j in range(n)}
    assert told == (wanted if n <= 20 else {})
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("class", "taken for")
