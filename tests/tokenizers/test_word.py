import pytest

from jaxgpt import tokenizers
from jaxgpt.tokenizers import WordTokenizer

TOKENIZER = WordTokenizer.train(["The cat's hat -- a hat!", "No?"])


def test_words_and_punctuation_sorted_then_the_special_tokens():
    assert TOKENIZER.words == ["!", "'", "--", "?", "No", "The", "a", "cat", "hat", "s"]
    assert TOKENIZER.special_tokens == {"<|endoftext|>": 10, "<|unk|>": 11}
    assert TOKENIZER.vocab_size == 12
    assert TOKENIZER.end_of_text == 10
    assert TOKENIZER.encode("The hat?  No\thats--a") == [5, 8, 3, 4, 11, 2, 6]


def test_a_single_text_is_not_taken_for_a_list_of_characters():
    assert WordTokenizer.train("a cat").words == ["a", "cat"]


def test_the_published_ids_of_the_verdict(shared_data):
    """Raschka, Build a Large Language Model (From Scratch), sections 2.3 and 2.4."""
    text = (shared_data / "the_verdict/the-verdict.txt").read_text()
    tokenizer = WordTokenizer.train(text)
    assert tokenizer.vocab_size == 1132
    assert tokenizer.special_tokens == {"<|endoftext|>": 1130, "<|unk|>": 1131}
    quote = """"It's the last he painted, you know,"\n           Mrs. Gisburn said with pardonable pride."""
    ids = [1, 56, 2, 850, 988, 602, 533, 746, 5, 1126, 596, 5, 1, 67, 7, 38, 851, 1108, 754, 793, 7]
    assert tokenizer.encode(quote) == ids
    assert (
        tokenizer.decode(ids) == """\" It' s the last he painted, you know," Mrs. Gisburn said with pardonable pride."""
    )
    two = "Hello, do you like tea? <|endoftext|> In the sunlit terraces of the palace."
    ids = [1131, 5, 355, 1126, 628, 975, 10, 1130, 55, 988, 956, 984, 722, 988, 1131, 7]
    assert tokenizer.encode(two, allowed_special="all") == ids
    assert tokenizer.decode(ids) == "<|unk|>, do you like tea? <|endoftext|> In the sunlit terraces of the <|unk|>."


def test_special_tokens_only_when_allowed():
    text = "a<|endoftext|>hat <|unk|>"
    assert TOKENIZER.encode(text) == [11, 11]  # two unknown words
    assert TOKENIZER.encode("a <|endoftext|> a") == [6, 11, 6]
    assert TOKENIZER.encode(text, allowed_special={"<|endoftext|>"}) == [6, 10, 8, 11]
    assert TOKENIZER.encode(text, allowed_special="all") == [6, 10, 8, 11]
    with pytest.raises(ValueError, match=r"found '<s>', expected one of \['<\|endoftext\|>', '<\|unk\|>'\]"):
        TOKENIZER.encode(text, allowed_special={"<s>", "<|unk|>"})


def test_special_tokens_in_the_training_text_are_not_words():
    assert WordTokenizer.train("a <|endoftext|> b <|unk|>").words == ["a", "b"]


def test_the_first_word_may_have_id_zero():
    tokenizer = WordTokenizer.train("")
    assert tokenizer.encode("<|endoftext|> x", allowed_special="all") == [0, 1]


def test_decoding_what_was_encoded_is_what_encodes_to_the_same(unicode_texts):
    tokenizer = WordTokenizer.train(unicode_texts)
    for text in unicode_texts[:2000]:
        ids = tokenizer.encode(text)
        assert tokenizer.encode(tokenizer.decode(ids)) == ids


@pytest.mark.parametrize("token", [12, -1])
def test_an_id_out_of_range_is_named(token):
    with pytest.raises(ValueError, match=rf"^token id: found {token}, expected 0\.\.11$"):
        TOKENIZER.decode([0, token])


def test_saved_and_loaded(tmp_path):
    TOKENIZER.save(tmp_path)
    loaded = tokenizers.load(tmp_path)
    assert isinstance(loaded, WordTokenizer)
    assert loaded.words == TOKENIZER.words
    assert loaded.special_tokens == TOKENIZER.special_tokens
