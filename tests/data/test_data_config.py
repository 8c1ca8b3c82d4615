import re

import pytest
from tiny import unchecked

from jaxgpt.data import DataConfig


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("path", "", "data.path: found '', expected a file, a folder, a glob or 'python'"),
        ("path", None, "data.path: found None, expected a string"),
        ("validation_fraction", "0.1", "data.validation_fraction: found '0.1', expected a number"),
        ("vocab_size", 300.0, "data.vocab_size: found 300.0, expected an integer"),
        ("sampling", "epoch", "data.sampling: found 'epoch', expected one of random, epochs"),
        ("validation_fraction", 1.5, "data.validation_fraction: found 1.5, expected a number in (0, 1)"),
        ("validation_fraction", 0.0, "data.validation_fraction: found 0.0, expected a number in (0, 1)"),
        ("validation_fraction", float("nan"), "data.validation_fraction: found nan"),
        ("vocab_size", 0, "data.vocab_size: found 0, expected a positive integer"),
        ("stride", 0, "data.stride: found 0, expected a positive integer or None"),
    ],
)
def test_a_wrong_value_is_refused(field, value, expected):
    with pytest.raises(ValueError, match=re.escape(expected)):
        unchecked(DataConfig(), **{field: value})


def test_a_config_is_a_value():
    assert hash(DataConfig(path="a", stride=3)) == hash(DataConfig(path="a", stride=3))
    assert DataConfig(path="a") != DataConfig(path="b")
