import pytest
import tokenizers as library

from jaxgpt.tokenizers import BPETokenizer, CharTokenizer, JSONTokenizer, WordTokenizer
from jaxgpt.tokenizers.base import as_texts, read_object, write_whole


def test_a_save_that_fails_leaves_what_was_there(tmp_path):
    write_whole(tmp_path / "file", "before")
    with pytest.raises(UnicodeEncodeError):
        write_whole(tmp_path / "file", "half\ud800")
    assert (tmp_path / "file").read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("text", ["[]", "{", '{"a": 1, "b": 2, "a": 1}', '{"a": ' + "[" * 100_000, "\udcff"])
def test_a_damaged_object_is_refused_by_the_name_of_its_file(tmp_path, text):
    (tmp_path / "file").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=f"{tmp_path / 'file'}: found "):
        read_object(tmp_path / "file")


def test_texts_are_streamed():
    texts = iter(["a", "b"])
    assert as_texts(texts) is texts


def test_a_text_from_nothing_starts_from_end_of_text_else_a_line_break_else_the_lowest_id():
    bpe = BPETokenizer.train("text", 257)
    assert bpe.start == [bpe.end_of_text]
    word = WordTokenizer("ab")
    assert word.start == [word.end_of_text]
    assert CharTokenizer("ba\n").start == [0]
    assert CharTokenizer("b\t\n").start == [1]
    assert CharTokenizer("ba").start == [0]
    pieces = library.Tokenizer(library.models.WordLevel({"a": 7, "b": 3}, unk_token="a"))
    pieces.pre_tokenizer = library.pre_tokenizers.WhitespaceSplit()
    assert JSONTokenizer(pieces.to_str()).start == [3]  # spells no white space, and has no id 0


def test_of_special_tokens_ordinary_text_encodes_to_the_unknown_one_only():
    tokenizer = WordTokenizer(["a"])
    ids = tokenizer.encode("a <|endoftext|> b <|unk|>")
    assert tokenizer.special_tokens["<|unk|>"] in ids
    assert tokenizer.end_of_text not in ids
