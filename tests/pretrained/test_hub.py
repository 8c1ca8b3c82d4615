"""A repository's name, answered from the hub's cache without a network."""

import sys

import pytest

from jaxgpt.pretrained.hub import find_folder

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache that holds one repository, in the layout of huggingface_hub, and no network."""
    constants = pytest.importorskip("huggingface_hub.constants")
    repo = tmp_path / "models--someone--a-model"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(COMMIT)
    snapshot = repo / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return snapshot


def test_a_repository_is_found_in_the_cache(cache):
    assert find_folder("someone/a-model") == cache
    assert find_folder("someone/a-model", COMMIT) == cache


def test_one_that_is_nowhere_is_named(cache):
    with pytest.raises(FileNotFoundError, match=r"found neither a folder nor a hub repository someone/another \("):
        find_folder("someone/another")


def test_without_the_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(FileNotFoundError, match=r"pip install 'jaxgpt\[hub\]'"):
        find_folder("someone/a-model")


def test_a_folder_goes_first_and_has_no_revision(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt2").mkdir()
    assert find_folder("gpt2").resolve() == tmp_path / "gpt2"
    with pytest.raises(ValueError, match="revision: found 'main', expected None, as gpt2 is a folder"):
        find_folder("gpt2", "main")
