import json

import numpy as np
import pytest

from jaxgpt import tokenizers
from jaxgpt.tokenizers import CharTokenizer

TOKENIZER = CharTokenizer.train("hello, 🌍\n")


def test_ids_are_ranks_among_the_sorted_characters():
    assert TOKENIZER.characters == ["\n", " ", ",", "e", "h", "l", "o", "🌍"]
    assert TOKENIZER.vocab_size == 8
    assert TOKENIZER.encode("hello 🌍") == [4, 3, 5, 5, 6, 1, 7]
    assert TOKENIZER.encode_batch(["he", "", "lo"]) == [[4, 3], [], [5, 6]]


def test_trains_on_one_text_or_many():
    assert (
        CharTokenizer.train(iter(["ba", "ca"])).characters == CharTokenizer.train("abc").characters == ["a", "b", "c"]
    )


def test_tiny_shakespeare_has_65_characters(shared_data):
    text = (shared_data / "tinyshakespeare/input.txt").read_text()
    tokenizer = CharTokenizer.train(text)
    assert tokenizer.vocab_size == 65
    # The ids of nanoGPT's data/shakespeare_char/prepare.py.
    assert tokenizer.encode("First Citizen:") == [18, 47, 56, 57, 58, 1, 15, 47, 58, 47, 64, 43, 52, 10]
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_any_text_it_was_trained_on_comes_back(unicode_texts):
    tokenizer = CharTokenizer.train(unicode_texts)
    assert [tokenizer.decode(ids) for ids in tokenizer.encode_batch(unicode_texts)] == unicode_texts
    assert tokenizer.vocab_size == len(set("".join(unicode_texts)))


def test_a_lone_surrogate_is_a_character_like_any_other(tmp_path):
    tokenizer = CharTokenizer.train("\udf0d \ud83c")
    tokenizer.save(tmp_path)
    loaded = tokenizers.load(tmp_path)
    assert loaded.characters == [" ", "\ud83c", "\udf0d"]
    assert loaded.decode(loaded.encode("\udf0d\ud83c")) == "\udf0d\ud83c"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("hex", "'x' at position 2"),  # below the largest known code point
        ("he\U0010ffff", r"'\\U0010ffff' at position 2"),  # above it
        ("🌍\U0001f30e", "'🌎' at position 1"),  # just above it; a character is one position, whatever its width
        (chr(0x1F30D + 2 + ord("h")), "'.*' at position 0"),  # as far above the table's end as "h" is from its start
        ("Xx", "'X' at position 0"),
    ],
)
def test_an_unknown_character_is_named_with_its_position(text, found):
    with pytest.raises(ValueError, match=f"text: found {found}, expected one of the vocabulary's 8 characters"):
        TOKENIZER.encode(text)


@pytest.mark.parametrize("token", [8, -1, 10**12])
def test_an_id_out_of_range_is_named(token):
    with pytest.raises(ValueError, match=rf"^token id: found {token}, expected 0\.\.7$"):
        TOKENIZER.decode([0, token])


def test_decodes_arrays():
    assert TOKENIZER.decode(np.array([4, 3], np.uint16)) == "he"
    with pytest.raises(TypeError):
        TOKENIZER.decode([1.5])


def test_has_no_special_tokens():
    assert TOKENIZER.special_tokens == {}
    assert TOKENIZER.end_of_text is None
    assert TOKENIZER.encode("he", allowed_special="all") == [4, 3]
    with pytest.raises(ValueError, match=r"allowed_special: found '<\|endoftext\|>', expected one of \[\]"):
        TOKENIZER.encode("he", allowed_special={"<|endoftext|>"})


def test_no_characters_are_refused():
    with pytest.raises(ValueError, match="characters: found none"):
        CharTokenizer.train(iter([]))


def test_saved_as_json_and_loaded(tmp_path):
    TOKENIZER.save(tmp_path / "new/folder")
    file = tmp_path / "new/folder/jaxgpt_tokenizer.json"
    assert json.loads(file.read_text()) == {"kind": "char", "characters": TOKENIZER.characters}
    loaded = tokenizers.load(tmp_path / "new/folder")
    assert isinstance(loaded, CharTokenizer)
    assert loaded.encode("hello, 🌍\n") == TOKENIZER.encode("hello, 🌍\n")
