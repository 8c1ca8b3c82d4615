"""Tokenizers by name and from a folder."""

from collections.abc import Callable, Iterable
from pathlib import Path

import tiktoken

from jaxgpt.checks import nearest
from jaxgpt.tokenizers.base import STATE_FILE, Tokenizer, read_state
from jaxgpt.tokenizers.bpe import BPETokenizer
from jaxgpt.tokenizers.char import CharTokenizer
from jaxgpt.tokenizers.tokenizer_json import FILE, JSONTokenizer
from jaxgpt.tokenizers.word import WordTokenizer

KINDS: dict[str, type[Tokenizer]] = {
    kind.kind: kind for kind in (CharTokenizer, WordTokenizer, BPETokenizer, JSONTokenizer)
}


def create(name: str, texts: Callable[[], Iterable[str]], vocab_size: int) -> Tokenizer:
    """The tokenizer called name, trained on texts() where it is one that is trained.

    name: "char" | "word" | "bpe" | "tiktoken:<encoding>" | "json:<tokenizer.json, or the folder it is in>" |
        "saved:<a folder that load reads, such as a run directory>".
    vocab_size: the size "bpe" is trained to; the others have their own.
    Raises ValueError for another name, FileNotFoundError if there is no such tokenizer.json.
    """
    match name.partition(":"):
        case "char", "", "":
            return CharTokenizer.train(texts())
        case "word", "", "":
            return WordTokenizer.train(texts())
        case "bpe", "", "":
            return BPETokenizer.train(texts(), vocab_size)
        case "tiktoken", ":", encoding:
            return BPETokenizer.from_tiktoken(encoding)
        case "json", ":", path:
            return JSONTokenizer.from_folder(Path(path).parent if Path(path).name == FILE else path)
        case "saved", ":", folder:
            return load(folder)
    known = [
        "char",
        "word",
        "bpe",
        "json:<path>",
        "saved:<folder>",
        *(f"tiktoken:{name}" for name in tiktoken.list_encoding_names()),
    ]
    raise ValueError(f"tokenizer: found {name!r}, expected {nearest(name, known)}")


def load(folder: str | Path) -> Tokenizer:
    """The tokenizer saved in folder by Tokenizer.save, or else the one its tokenizer.json describes.

    Raises FileNotFoundError if folder holds neither, ValueError if what is saved there is broken or of no
    known kind.
    """
    if state := read_state(folder):
        if (kind := str(state.get("kind"))) not in KINDS:
            raise ValueError(f"{Path(folder) / STATE_FILE}: kind: found {kind!r}, expected {nearest(kind, KINDS)}")
        try:
            return KINDS[kind].from_folder(folder)
        except KeyError as error:
            expected = f"the state of a {kind} tokenizer"
            raise ValueError(f"{Path(folder) / STATE_FILE}: found no {error}, expected {expected}") from error
    if not (Path(folder) / FILE).is_file():
        raise FileNotFoundError(f"{folder}: found no tokenizer, expected a {STATE_FILE} or a {FILE}")
    return JSONTokenizer.from_folder(folder)
