import json
import sys

import pytest
import tokenizers as library
from tokenizers import decoders, models, pre_tokenizers

from jaxgpt import tokenizers
from jaxgpt.tokenizers import JSONTokenizer


@pytest.fixture
def stories(shared_data) -> JSONTokenizer:
    return JSONTokenizer.from_folder(shared_data / "stories260K")


@pytest.fixture(scope="module")
def wordpiece() -> JSONTokenizer:
    return JSONTokenizer(wordpiece_definition())


def wordpiece_definition() -> str:
    """A BERT-like tokenizer.json that also truncates, pads, and adds [CLS] and [SEP]."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", ".", "mask", "[", "]"]
    built = library.Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    built.normalizer = library.normalizers.Lowercase()
    built.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    built.decoder = decoders.WordPiece()
    built.post_processor = library.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    built.add_special_tokens([*words[:4], library.AddedToken("[MASK]", lstrip=True)])
    built.enable_truncation(4)
    built.enable_padding(length=4)
    return built.to_str()


def test_stories_gives_the_ids_of_transformers(stories):
    # AutoTokenizer.from_pretrained("stories260K")("Once upon a time", add_special_tokens=False)
    assert stories.encode("Once upon a time") == [403, 407, 261, 378]
    assert stories.decode([403, 407, 261, 378]) == "Once upon a time"
    assert stories.vocab_size == 512
    assert stories.special_tokens == {"<unk>": 0, "<s>": 1, "</s>": 2}
    assert (stories.begin_of_text, stories.end_of_text) == (1, 2)


def test_any_text_comes_back_but_for_the_sign_that_stands_for_a_space(stories, unicode_texts):
    for text, ids in zip(unicode_texts, stories.encode_batch(unicode_texts), strict=True):
        assert stories.decode(ids) == text.replace("▁", " ")
        assert not {0, 1, 2} & set(ids)


def test_nothing_is_added_truncated_or_padded(wordpiece):
    assert wordpiece.encode("The cats. The cats.") == [5, 6, 7, 8, 5, 6, 7, 8]
    assert wordpiece.encode_batch(["the", "the cats"]) == [[5], [5, 6, 7]]
    assert wordpiece.encode("") == []
    assert wordpiece.frame(wordpiece.encode("the")) == [2, 5, 3]


def test_special_tokens_only_when_allowed(wordpiece):
    text = "the [MASK] [SEP]"
    assert wordpiece.special_tokens == {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4}
    assert wordpiece.encode(text) == [5, 10, 9, 11, 10, 1, 11]
    assert wordpiece.encode(text, allowed_special="all") == [5, 4, 3]
    assert wordpiece.encode(text, allowed_special={"[MASK]"}) == [5, 4, 10, 1, 11]
    assert wordpiece.encode(text) == [5, 10, 9, 11, 10, 1, 11]  # allowing once allows once
    assert wordpiece.encode_batch([text], allowed_special={"[SEP]"}) == [[5, 10, 9, 11, 3]]
    with pytest.raises(ValueError, match=r"allowed_special: found '<mask>', expected one of \['\[CLS\]'"):
        wordpiece.encode(text, allowed_special={"<mask>"})


def no_merge(words):
    return {word: i for i, word in enumerate(words)}


WORDS = ["?", "a", "<", "s", ">", "<s>", "<m>"]
MODELS = {
    "Unigram": lambda: models.Unigram([(word, -1.0 - i / 9) for i, word in enumerate(WORDS)], unk_id=0),
    "WordLevel": lambda: models.WordLevel(no_merge(WORDS), unk_token="?"),
    "WordPiece": lambda: models.WordPiece(no_merge(WORDS), unk_token="?"),
    "BPE": lambda: models.BPE(no_merge([*WORDS, "<s"]), [("<", "s"), ("<s", ">")], unk_token="?"),
}


@pytest.mark.parametrize("kind", MODELS)
def test_no_model_spells_a_users_text_with_special_tokens(kind):
    """The special token <s> stands in the model's own vocabulary: the model itself would choose it."""
    built = library.Tokenizer(MODELS[kind]())
    built.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    built.add_special_tokens(["<s>", "<m>"])
    tokenizer = JSONTokenizer(built.to_str())
    assert tokenizer.special_tokens == {"<s>": 5, "<m>": 6}
    for text in ("<s>", "a <s> a", "<m>", "a<s>"):
        assert not {5, 6} & set(tokenizer.encode(text)), text
        assert 6 not in tokenizer.encode(text, allowed_special={"<s>"})
    assert tokenizer.encode("a <s> a", allowed_special={"<s>"}) == [1, 5, 1]
    assert tokenizer.encode("a <m> a", allowed_special="all") == [1, 6, 1]
    assert tokenizer.decode([1, 5]).replace(" ", "") == "a<s>"


def test_one_allowed_token_of_several_beside_the_vocabulary_has_its_own_id():
    """Their ids follow from their order: the first must not get lost where the second alone is allowed."""
    built = library.Tokenizer(models.BPE({"a": 0, "<": 1}, []))
    built.add_special_tokens(["<x>", "<y>", "<z>"])
    tokenizer = JSONTokenizer(built.to_str())
    assert tokenizer.special_tokens == {"<x>": 2, "<y>": 3, "<z>": 4}
    for token, token_id in tokenizer.special_tokens.items():
        assert tokenizer.encode(f"a{token}a<y", allowed_special={token}) == [0, token_id, 0, 1]
    assert tokenizer.encode("a<y>", allowed_special={"<x>"}) == [0, 1]


def test_the_unknown_token_is_one_too(wordpiece):
    assert wordpiece.encode("the [UNK] zebra", allowed_special={"[UNK]"}) == [5, 1, 1]
    assert wordpiece.encode_parts(["the", "[UNK]", "zebra", "[MASK]", ""]) == [5, 1, 1, 4]


def test_an_allowed_token_keeps_the_options_of_the_file():
    built = library.Tokenizer(models.WordLevel({"a": 0, " ": 1, "<m>": 2, "?": 3}, unk_token="?"))
    built.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    built.add_special_tokens([library.AddedToken("<m>", lstrip=True)])
    tokenizer = JSONTokenizer(built.to_str())
    assert tokenizer.encode("a <m> a", allowed_special={"<m>"}) == [0, 2, 1, 0]  # the space before it belongs to it


def test_a_token_that_the_file_looks_for_in_normalised_text_is_recognised():
    built = library.Tokenizer(models.WordLevel({"_a": 0, "_": 1, "<m>": 2, "?": 3}, unk_token="?"))
    built.normalizer = library.normalizers.Prepend("_")
    built.add_special_tokens([library.AddedToken("<m>", normalized=True)])
    assert JSONTokenizer(built.to_str()).encode("a<m>a", allowed_special={"<m>"}) == [0, 2, 0]


def test_decodes_special_tokens(wordpiece):
    assert wordpiece.decode([2, 5, 6, 7, 8, 3]) == "[CLS] the cats. [SEP]"


@pytest.mark.parametrize("token", [12, -1, 2**40])
def test_an_id_out_of_range_is_named(wordpiece, token):
    with pytest.raises(ValueError, match=rf"^token id: found {token}, expected 0\.\.11$"):
        wordpiece.decode([5, token])


def test_an_unused_id_is_named():
    tokenizer = JSONTokenizer(library.Tokenizer(models.WordLevel({"a": 0, "b": 5}, unk_token="a")).to_str())
    assert tokenizer.vocab_size == 6
    with pytest.raises(ValueError, match=r"^token id: found 3, expected 0\.\.5, and this id is unused$"):
        tokenizer.decode([0, 3])


def test_a_lone_surrogate_is_read_as_a_replacement_character(stories):
    assert stories.decode(stories.encode("a\ud800b")) == "a\ufffdb"


@pytest.mark.parametrize("token", ["[SEP]", {"content": "[SEP]", "lstrip": False}])
def test_end_of_text_is_the_eos_token_of_the_config(tmp_path, token):
    (tmp_path / "tokenizer.json").write_text(wordpiece_definition())
    assert tokenizers.load(tmp_path).end_of_text is None
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": token}))
    assert tokenizers.load(tmp_path).end_of_text == 3
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": None}))
    assert tokenizers.load(tmp_path).end_of_text is None
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": token, "sep_token": "[CLS]"}))
    assert tokenizers.load(tmp_path).end_of_text == 3
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"sep_token": token}))  # BERT's
    assert tokenizers.load(tmp_path).end_of_text == 3


def test_end_of_text_is_found_by_name_without_a_config():
    built = library.Tokenizer(models.WordLevel({"a": 0, "<|endoftext|>": 1}, unk_token="a"))
    assert JSONTokenizer(built.to_str()).end_of_text == 1


FILES = {
    "tokenizer_config.json": '{"tokenizer_class": "BertTokenizer",\r\n "sep_token": "[CLS]", "do_lower_case": true}',
    "special_tokens_map.json": '{"sep_token": {"content": "[SEP]"}}\n',
}


def test_saved_and_loaded(tmp_path):
    tokenizer = JSONTokenizer(wordpiece_definition(), FILES)
    tokenizer.save(tmp_path)
    loaded = tokenizers.load(tmp_path)
    assert isinstance(loaded, JSONTokenizer)
    assert loaded.end_of_text == 3
    assert loaded.special_tokens == tokenizer.special_tokens
    assert loaded.encode("The cats") == [5, 6, 7]
    assert loaded.frame([5]) == [2, 5, 3]
    # What other programs read is the files as they came, truncation included.
    for name, text in {"tokenizer.json": wordpiece_definition(), **FILES}.items():
        assert (tmp_path / name).read_bytes() == text.encode()
    assert not (tmp_path / "chat_template.jinja").exists()


def test_a_folder_that_an_earlier_version_saved_keeps_its_end_of_text(tmp_path):
    (tmp_path / "tokenizer.json").write_text(wordpiece_definition())
    (tmp_path / "jaxgpt_tokenizer.json").write_text('{"kind": "json", "end_of_text": "[SEP]"}')
    assert tokenizers.load(tmp_path).end_of_text == 3


def test_files_that_are_no_objects_are_named(tmp_path):
    for name in FILES:
        with pytest.raises(ValueError, match=rf"^{name}: found a JSON list, expected an object"):
            JSONTokenizer(wordpiece_definition(), {name: "[]"})


def test_a_definition_alone_opens_in_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer = JSONTokenizer(wordpiece_definition())
    tokenizer.save(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs("the cats.").input_ids == tokenizer.frame(tokenizer.encode("the cats."))


def test_what_is_no_tokenizer_json_is_refused():
    with pytest.raises(ValueError, match=r"^tokenizer\.json: "):
        JSONTokenizer('{"version": "1.0"}')


def test_without_the_library_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"pip install 'jaxgpt\[tokenizers\]'"):
        JSONTokenizer("{}")
