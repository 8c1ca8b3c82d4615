import pytest

from jaxgpt.tokenizers.base import as_texts, write_whole


def test_a_save_that_fails_leaves_what_was_there(tmp_path):
    write_whole(tmp_path / "file", "before")
    with pytest.raises(UnicodeEncodeError):
        write_whole(tmp_path / "file", "half\ud800")
    assert (tmp_path / "file").read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_texts_are_streamed():
    texts = iter(["a", "b"])
    assert as_texts(texts) is texts
