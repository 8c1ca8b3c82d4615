"""The README's code runs as it stands, block after block in one program, and names files that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_tour_runs():
    blocks = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 5
    namespace = {}
    for i, block in enumerate(blocks):
        exec(compile(block, f"README block {i + 1}", "exec"), namespace)


def test_files_and_fields_it_names_exist():
    for name in re.findall(r"(?:configs|tests)/[\w/]+\.(?:py|png)", README):
        if name != "configs/NAME.py":
            assert (ROOT / name).is_file(), name
    from jaxgpt.training.config import TrainConfig, _flat

    fields = _flat(__import__("dataclasses").asdict(TrainConfig()))
    for name in re.findall(r"--((?:data|train|mesh|model|optimizer)\.\w+)", README):
        assert name in fields, name
