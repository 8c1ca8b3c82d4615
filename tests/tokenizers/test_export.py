import inspect
import json

import pytest
import tiktoken
import tokenizers as library

from jaxgpt.tokenizers import BPETokenizer, CharTokenizer, Tokenizer, WordTokenizer, wordpiece

CODE = inspect.getsource(library) + inspect.getsource(json)
MIXED = [
    CODE[:4000],
    "Über Äpfel, naïve façade: 日本語 한국어 नमस्ते שלום 👩‍👩‍👧‍👦🏳️‍🌈👍🏽 e\u0301ﬁ",
    "\x00\x01\x1b\x1c\x1d\x1e\x1f\x7f\x85\xa0\u2028\u2029\u3000\ufeff\u200b\r\n\t",
    " " * 999 + "x" + "\n" * 99 + "\t \t ",
    "it's WE'LL  don't--stop... 1234567 3.14 'x_y' \"q\" (a) a,b;c:d!e?",
    "",
]


def texts_of(unicode_texts) -> list[str]:
    """What transformers reads as it stands: it takes what looks like a special token for one, and jaxgpt does not."""
    special = ("<|endoftext|>", "<|unk|>")
    return [*MIXED, *(text for text in unicode_texts[:2000] if not any(token in text for token in special))]


def made(kind: str, texts: list[str]) -> Tokenizer:
    match kind:
        case "char":
            return CharTokenizer.train(texts)
        case "word":
            return WordTokenizer.train([*MIXED, *texts[:200]])
        case "bpe":
            return BPETokenizer.train([CODE, *texts[:200]], 700)
        case "wordpiece":
            return wordpiece.train([CODE, *texts[:200]], 2500)


@pytest.mark.parametrize("model_type", [None, "gpt2", "llama", "bert"])
@pytest.mark.parametrize("kind", ["char", "word", "bpe", "wordpiece"])
def test_transformers_reads_and_writes_the_same(tmp_path, unicode_texts, kind, model_type):
    transformers = pytest.importorskip("transformers")
    texts = texts_of(unicode_texts)
    ours = made(kind, texts)
    ours.save(tmp_path)
    if model_type is not None:  # the model's own kind of tokenizer must not take its place
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ids = [ours.frame(ids) for ids in ours.encode_batch(texts)]
    assert theirs(texts).input_ids == ids
    assert [theirs.decode(row) for row in ids] == [ours.decode(row) for row in ids]
    every = sorted(ours.ids)
    assert theirs.decode(every[::-1]) == ours.decode(every[::-1])
    assert theirs.eos_token_id == (ours.end_of_text if kind in ("word", "bpe") else None)
    assert len(theirs) == ours.vocab_size


def test_gpt2_has_its_50000_merges(tmp_path, unicode_texts, shared_data, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(shared_data / "tiktoken_cache"))
    gpt2 = BPETokenizer.from_tiktoken("gpt2")
    gpt2.save(tmp_path)
    merges = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["merges"]
    assert len(merges) == 50000
    assert merges[:3] == [["Ġ", "t"], ["Ġ", "a"], ["h", "e"]]  # the first lines of OpenAI's vocab.bpe
    theirs = library.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    texts = [*MIXED, *(shared_data / "tinyshakespeare/input.txt").read_text()[:200_000].split("\n\n"), *unicode_texts]
    texts = [text for text in texts if "<|endoftext|>" not in text]
    for text, ids, found in zip(texts, gpt2.encode_batch(texts), theirs.encode_batch(texts), strict=True):
        assert found.ids == ids
        assert theirs.decode(ids) == text


def test_special_tokens_keep_their_ids_and_gaps(tmp_path):
    ranks = {bytes([i]): i for i in range(256)} | {b"ab": 256, b"abc": 300}
    encoding = tiktoken.Encoding("gaps", pat_str=r"\S+|\s", mergeable_ranks=ranks, special_tokens={"<x>": 400})
    BPETokenizer(encoding).save(tmp_path)
    theirs = library.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert theirs.encode("abc<x> ab").ids == [300, 400, 32, 256]
    assert "eos_token" not in json.loads((tmp_path / "tokenizer_config.json").read_text())


@pytest.mark.parametrize(
    "tokenizer",
    [
        lambda: CharTokenizer("ab\udc00"),
        lambda: WordTokenizer(["a b"]),  # encode finds a and b alone, decode may write both
        lambda: WordTokenizer(["a,"]),
        lambda: BPETokenizer(
            tiktoken.Encoding(
                "no merges",
                pat_str=r"\S+|\s",
                mergeable_ranks={bytes([i]): i for i in range(256)} | {b"abc": 256},  # of three bytes at once
                special_tokens={},
            )
        ),
    ],
)
def test_what_the_format_cannot_say_is_not_written(tmp_path, tokenizer):
    tokenizer().save(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["jaxgpt_tokenizer.json"]
