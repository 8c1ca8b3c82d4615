import json
import sys

import pytest

from jaxgpt import tokenizers
from jaxgpt.tokenizers import MarianTokenizer
from jaxgpt.tokenizers.streaming import StreamingDecoder

sentencepiece = pytest.importorskip("sentencepiece")

SOURCE = ["the cat sat on the mat.", "a dog's day isn't done, is it?", "the dog sat; the cat ran away!"] * 9
TARGET = ["die Katze saß auf der Matte.", "der Hund läuft über die Straße.", "ein schöner Tag, nicht wahr?"] * 9
TEXTS = [
    *SOURCE[:3],
    "",
    " ",
    "  the   cat  ",
    "über 日本 👍🏽 away",
    "</s",
    "1234 & [x]\n\ttab",
    ">>deu<< the cat",
    ">>deu<<",
    ">>fra<< the cat",
    ">> deu",
    "the >>deu<< cat",
    ">><<cat",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An opus-mt folder: two small SentencePiece models, and a vocabulary of both that is in no order of theirs."""
    folder = tmp_path_factory.mktemp("opus")
    pieces = {}
    for name, texts in [("source", SOURCE), ("target", TARGET)]:
        with (folder / f"{name}.spm").open("wb") as file:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(texts),
                model_writer=file,
                vocab_size=40,
                hard_vocab_limit=False,
                bos_id=-1,
                user_defined_symbols=["<pad>"],  # the model itself would spell a text with it
                minloglevel=2,
            )
        model = sentencepiece.SentencePieceProcessor(model_file=str(folder / f"{name}.spm"))
        pieces |= dict.fromkeys(model.id_to_piece(i) for i in range(model.get_piece_size()))
    known = [piece for piece in sorted(pieces)[::-1] if piece not in ("</s>", "<unk>", "y")]
    vocab = {token: i for i, token in enumerate(["</s>", "<unk>", *known, ">>deu<<", "<pad>"])}
    (folder / "vocab.json").write_text(json.dumps(vocab, indent=1))
    config = {"source_lang": "eng", "target_lang": "deu", "tokenizer_class": "MarianTokenizer"}
    (folder / "tokenizer_config.json").write_bytes(json.dumps(config).encode() + b"\r\n")
    return folder


@pytest.fixture(scope="module")
def ours(folder) -> MarianTokenizer:
    tokenizer = tokenizers.load(folder)
    assert isinstance(tokenizer, MarianTokenizer)
    return tokenizer


@pytest.fixture(scope="module")
def theirs(folder):
    return pytest.importorskip("transformers").MarianTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_those_of_transformers(ours, theirs, text):
    assert ours.frame(ours.encode(text)) == theirs(text).input_ids


def test_a_text_ends_with_the_end_token(ours):
    ids, pair = ours.encode("the cat"), ours.encode("sat")
    assert ours.frame(ids) == [*ids, 0]
    assert ours.frame(ids, pair) == [*ids, *pair, 0]
    assert ours.end_of_text == 0
    assert ours.pad == ours.vocab_size - 1
    assert ours.special_tokens == {"</s>": 0, "<unk>": 1, "<pad>": ours.pad}


def test_the_target_is_decoded_as_transformers_does(ours, theirs, folder):
    target = sentencepiece.SentencePieceProcessor(model_file=str(folder / "target.spm"))
    vocab = json.loads((folder / "vocab.json").read_text())
    for text in TARGET[:3]:
        ids = [vocab[piece] for piece in target.encode(text, out_type=str)]
        assert ours.decode(ids) == text
        for wrapped in (ids, [*ids, 0], [ours.pad, *ids, 0, 0, *ids], [1, *ids, ours.pad], []):
            assert ours.decode(wrapped) == theirs.decode(wrapped)
    assert ours.decode(ours.encode("the cat sat")) == "the cat sat"


def test_a_target_comes_in_pieces(ours):
    ids = [*ours.encode("the dog sat on the mat. a day"), 0, *ours.encode("the cat")]
    decoder = StreamingDecoder(ours)
    pieces = [decoder.push(token) for token in ids]
    assert "".join(pieces) + decoder.flush() == ours.decode(ids)
    assert sum(map(bool, pieces)) > 5


def test_special_tokens_only_when_allowed(ours):
    text = "the</s> cat<pad>"
    assert not {0, ours.pad} & set(ours.encode(text))
    assert ours.encode(text, allowed_special={"</s>"}).count(0) == 1
    assert ours.encode(text, allowed_special="all")[-1] == ours.pad
    assert ours.encode_parts(["the", "</s>", ""]) == [*ours.encode("the"), 0]
    with pytest.raises(ValueError, match="allowed_special: found '<s>'"):
        ours.encode(text, allowed_special={"<s>"})


def test_an_id_out_of_range_is_named(ours):
    with pytest.raises(ValueError, match=r"^token id: found 9999, expected 0"):
        ours.decode([9999])


def test_saved_files_are_the_same_bytes(ours, folder, tmp_path):
    ours.save(tmp_path)
    for name in ("source.spm", "target.spm", "vocab.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    loaded = tokenizers.load(tmp_path)
    assert isinstance(loaded, MarianTokenizer)
    assert [loaded.encode(text) for text in TEXTS] == [ours.encode(text) for text in TEXTS]


def test_what_is_no_marian_folder_is_refused(folder, ours):
    files = ours.files
    for changes, message in [
        ({"tokenizer_config.json": b'{"separate_vocabs": true}'}, "tokenizer_config.json: separate_vocabs: found True"),
        ({"vocab.json": b"[]"}, "vocab.json: found a JSON list, expected an object"),
        ({"vocab.json": b'{"a": 0}'}, "vocab.json: found 'no eos_token', expected </s>"),
        ({"source.spm": b"x"}, "source.spm: found no SentencePiece model"),
    ]:
        with pytest.raises(ValueError, match=message):
            MarianTokenizer(files | changes)


def test_a_missing_file_is_named(folder, tmp_path):
    (tmp_path / "source.spm").write_bytes((folder / "source.spm").read_bytes())
    with pytest.raises(FileNotFoundError, match=r"target\.spm"):
        tokenizers.load(tmp_path)


def test_without_the_library_the_error_says_what_to_install(ours, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(ImportError, match=r"pip install 'jaxgpt\[marian\]'"):
        MarianTokenizer(ours.files)
