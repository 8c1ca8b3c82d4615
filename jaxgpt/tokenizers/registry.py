"""Tokenizers by name and from a folder."""

from collections.abc import Callable, Iterable
from pathlib import Path

import tiktoken

from jaxgpt.checks import nearest, require
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
    Raises as `check` does.
    """
    check(name)
    match name.partition(":"):
        case "char", _, _:
            return CharTokenizer.train(texts())
        case "word", _, _:
            return WordTokenizer.train(texts())
        case "bpe", _, _:
            return BPETokenizer.train(texts(), vocab_size)
        case "tiktoken", _, encoding:
            return BPETokenizer.from_tiktoken(encoding)
        case "json", _, path:
            return JSONTokenizer.from_folder(_json_folder(path))
        case "saved", _, folder:
            return load(folder)


def check(name: str, field: str = "tokenizer") -> None:
    """Raise ValueError unless `create` knows the name, FileNotFoundError unless the files that it names are there.

    field: the setting to blame. Only looks: an encoding that tiktoken has yet to download passes.
    """
    match name.partition(":"):
        case "json", ":", path:
            folder, files = _json_folder(path), (FILE,)
        case "saved", ":", path:
            folder, files = Path(path), (STATE_FILE, FILE)
        case _:
            encodings = [f"tiktoken:{encoding}" for encoding in tiktoken.list_encoding_names()]
            known = ["char", "word", "bpe", "json:<path>", "saved:<folder>", *encodings]
            require(name in known, field, name, nearest(name, known))
            return
    if not any((folder / file).is_file() for file in files):
        raise FileNotFoundError(f"{field}: found {name!r}, expected a folder with a {' or a '.join(files)}")


def _json_folder(path: str) -> Path:
    """The folder of a tokenizer.json, from its own path or its folder's."""
    return Path(path).parent if Path(path).name == FILE else Path(path)


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
