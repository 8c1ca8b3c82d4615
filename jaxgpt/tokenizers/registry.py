"""Tokenizers by name and from a folder."""

from collections.abc import Callable, Iterable
from pathlib import Path

import tiktoken

from jaxgpt.checks import nearest, require
from jaxgpt.tokenizers import wordpiece
from jaxgpt.tokenizers.base import FILE, STATE_FILE, Tokenizer, read_state
from jaxgpt.tokenizers.bpe import BPETokenizer
from jaxgpt.tokenizers.char import CharTokenizer
from jaxgpt.tokenizers.chat import TEMPLATE_FILE
from jaxgpt.tokenizers.marian import SOURCE_FILE, MarianTokenizer
from jaxgpt.tokenizers.tokenizer_json import INSTALL, JSONTokenizer, has_library
from jaxgpt.tokenizers.word import WordTokenizer

SAVED = (STATE_FILE, FILE, SOURCE_FILE, wordpiece.VOCAB_FILE)
_UNREAD = ("spiece.model", "tokenizer.model", "merges.txt")  # what transformers makes a tokenizer.json of
_CASED = "cased:"
KINDS: dict[str, type[Tokenizer]] = {
    kind.kind: kind for kind in (CharTokenizer, WordTokenizer, BPETokenizer, JSONTokenizer, MarianTokenizer)
}


def create(name: str, texts: Callable[[], Iterable[str]], vocab_size: int) -> Tokenizer:
    """The tokenizer called name, trained on texts() where it is one that is trained.

    name: "char" | "word" | "bpe" | "wordpiece" (uncased) | "wordpiece:cased" | "tiktoken:<encoding>" |
        "vocab:<BERT's vocab.txt, or the folder it is in>" (uncased, unless a tokenizer_config.json beside it says
        otherwise) | "vocab:cased:<the same>" | "json:<tokenizer.json, or the folder it is in>" |
        "saved:<a folder that load reads, such as a run directory>".
    vocab_size: the size "bpe" and "wordpiece" are trained to; the others have their own.
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
        case "wordpiece", _, case:
            return wordpiece.train(texts(), vocab_size, cased=case == "cased")
        case "vocab", _, path:
            return wordpiece.from_vocab(path.removeprefix(_CASED), cased=path.startswith(_CASED) or None)
        case "tiktoken", _, encoding:
            return BPETokenizer.from_tiktoken(encoding)
        case "json", _, path:
            return JSONTokenizer.from_folder(_json_folder(path))
        case "saved", _, folder:
            return load(folder)


def check(name: str, field: str = "tokenizer") -> None:
    """Raise ValueError unless `create` knows the name, FileNotFoundError unless the files that it names are there.

    ValueError too for one that needs the tokenizers library, without it.
    field: the setting to blame. Only looks: an encoding that tiktoken has yet to download passes.
    """
    match name.partition(":"):
        case "json", ":", path:
            found, files = _holds(_json_folder(path), FILE), FILE
        case "vocab", ":", path:
            found, files = wordpiece.vocab_file(path.removeprefix(_CASED)).is_file(), wordpiece.VOCAB_FILE
        case "saved", ":", path:
            found, files = _holds(Path(path), *SAVED), " or a ".join(SAVED)
        case _:
            encodings = [f"tiktoken:{encoding}" for encoding in tiktoken.list_encoding_names()]
            trained = ["char", "word", "bpe", "wordpiece", "wordpiece:cased"]
            known = [*trained, "vocab:<path>", "vocab:cased:<path>", "json:<path>", "saved:<folder>", *encodings]
            require(name in known, field, name, nearest(name, known))
            found, files = True, ""
    if not found:
        raise FileNotFoundError(f"{field}: found {name!r}, expected a folder with a {files}")
    if name.partition(":")[0] in ("wordpiece", "vocab", "json"):
        require(has_library(), field, name, INSTALL)


def _holds(folder: Path, *files: str) -> bool:
    return any((folder / file).is_file() for file in files)


def _json_folder(path: str) -> Path:
    """The folder of a tokenizer.json, from its own path or its folder's."""
    return Path(path).parent if Path(path).name == FILE else Path(path)


def load(folder: str | Path) -> Tokenizer:
    """The tokenizer saved in folder by Tokenizer.save, or else the one of the checkpoint there.

    A checkpoint's: a tokenizer.json, Marian's source.spm and what goes with it, or BERT's vocab.txt.
    Raises FileNotFoundError if folder holds none of them, ValueError if what is saved there is broken, of no known
    kind, or of a form that a tokenizer.json has to be made of first.
    """
    if state := read_state(folder):
        if (kind := str(state.get("kind"))) not in KINDS:
            raise ValueError(f"{Path(folder) / STATE_FILE}: kind: found {kind!r}, expected {nearest(kind, KINDS)}")
        try:
            found = KINDS[kind].from_folder(folder)
        except KeyError as error:
            expected = f"the state of a {kind} tokenizer"
            raise ValueError(f"{Path(folder) / STATE_FILE}: found no {error}, expected {expected}") from error
        template = Path(folder) / TEMPLATE_FILE
        own = found.chat_template is None and template.is_file()
        return found.with_chat_template(template.read_text("utf-8")) if own else found
    if _holds(Path(folder), FILE):
        return JSONTokenizer.from_folder(folder)
    if _holds(Path(folder), SOURCE_FILE):
        return MarianTokenizer.from_folder(folder)
    if _holds(Path(folder), wordpiece.VOCAB_FILE):
        return wordpiece.from_vocab(folder)
    for name in _UNREAD:
        made = f"a {FILE}: transformers' AutoTokenizer.from_pretrained(folder).save_pretrained(folder) writes it"
        require(not _holds(Path(folder), name), f"{folder}", f"{name} alone", made)
    raise FileNotFoundError(f"{folder}: found no tokenizer, expected a {' or a '.join(SAVED)}")
