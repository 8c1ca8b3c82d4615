import re
import subprocess
import sys

import pytest

from jaxgpt.data import DataConfig


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("path", "", "data.path: found an empty path"),
        ("validation_fraction", 1.5, "data.validation_fraction: found 1.5, expected a number in (0, 1)"),
        ("validation_fraction", 0.0, "data.validation_fraction: found 0.0, expected a number in (0, 1)"),
        ("validation_fraction", float("nan"), "data.validation_fraction: found nan"),
        ("vocab_size", 0, "data.vocab_size: found 0, expected a positive integer"),
        ("stride", 0, "data.stride: found 0, expected None or a positive integer"),
    ],
)
def test_a_wrong_value_is_refused(field, value, expected):
    with pytest.raises(ValueError, match=re.escape(expected)):
        DataConfig(**{field: value})


def test_a_wrong_sampling_is_refused():
    """In a process of its own: here the tests' type checks refuse it first."""
    code = "from jaxgpt.data import DataConfig; DataConfig(sampling='epoch')"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ValueError: data.sampling: found 'epoch', expected one of ('random', 'epochs')" in found.stderr


def test_a_config_is_a_value():
    assert hash(DataConfig(path="a", stride=3)) == hash(DataConfig(path="a", stride=3))
    assert DataConfig(path="a") != DataConfig(path="b")
