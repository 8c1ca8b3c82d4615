"""Any tokenizer.json of a Hugging Face checkpoint, run by the tokenizers library."""

import json
import re
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal, SupportsIndex

import numpy as np
from jaxtyping import Bool

from jaxgpt.tokenizers.base import END_OF_TEXT, Tokenizer, read_object, read_state, well_formed, write_whole

FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
INSTALL = "the tokenizers library: pip install 'jaxgpt[tokenizers]'"
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


class JSONTokenizer(Tokenizer):
    """The tokenizer that a tokenizer.json describes, but for truncation, padding and added begin and end tokens.

    definition: the text of the tokenizer.json.
    end_of_text: the token that ends a document, which the file does not say; with none of that name there is none.
    library: the tokenizers.Tokenizer, for what only it has: its post-processor adds [CLS], <s> and the like.
    Raises ImportError without the tokenizers library, ValueError for text that is no tokenizer.json.
    """

    kind: ClassVar[str] = "json"

    def __init__(self, definition: str, end_of_text: str = END_OF_TEXT):
        self.definition = definition
        self.library = _parse(definition)
        self._ids = self.library.get_vocab()
        self._assigned = frozenset(self._ids.values())
        self._end_of_text = end_of_text
        self._special_tokens = {
            token.content: token_id
            for token_id, token in self.library.get_added_tokens_decoder().items()
            if token.special
        }
        self._recognising = {}
        falls_back_to_bytes = "ByteFallback" in json.dumps(json.loads(definition).get("decoder"))
        self._bytes = {i for token, i in self._ids.items() if falls_back_to_bytes and _BYTE.fullmatch(token)}

    @property
    def vocab_size(self) -> int:
        return max(self._assigned) + 1

    @property
    def ids(self) -> frozenset[int]:
        return self._assigned

    @property
    def special_tokens(self) -> dict[str, int]:
        return dict(self._special_tokens)

    @property
    def end_of_text(self) -> int | None:
        return self._ids.get(self._end_of_text)

    @cached_property
    def continues(self) -> Bool[np.ndarray, "vocab_size"] | None:
        model = self.library.model
        if not isinstance(model, import_library().models.WordPiece):
            return None
        prefix = model.continuing_subword_prefix
        inside = [i for token, i in self._ids.items() if token.startswith(prefix)]
        return np.isin(np.arange(self.vocab_size), inside)

    def encode(self, text: str, *, allowed_special: AbstractSet[str] | Literal["all"] = frozenset()) -> list[int]:
        return self.encode_batch([text], allowed_special=allowed_special)[0]

    def encode_batch(
        self, texts: Sequence[str], *, allowed_special: AbstractSet[str] | Literal["all"] = frozenset()
    ) -> list[list[int]]:
        """See Tokenizer; in threads."""
        library = self._recognises(self._allowed(allowed_special))
        # _fast leaves out character offsets: 1.8 times the speed for a long text.
        encodings = library.encode_batch_fast(list(map(well_formed, texts)), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        return self.library.decode(self._checked(ids, self._assigned), skip_special_tokens=False)

    def settles(self, token: int) -> bool:
        # One wrong byte turns the whole run of <0x..> tokens it stands in into U+FFFD.
        return token not in self._bytes

    def save(self, folder: str | Path) -> None:
        """Writes a tokenizer.json, for every other program, beside jaxgpt's own file."""
        write_whole(Path(folder) / FILE, self.definition)
        self._save(folder, end_of_text=self._end_of_text)

    @classmethod
    def from_folder(cls, folder: str | Path) -> "JSONTokenizer":
        """The tokenizer of a folder with a tokenizer.json: one saved here, or any Hugging Face checkpoint.

        Without the file of save, the end of text is the eos_token of tokenizer_config.json, if that is there,
        or else its sep_token, BERT's.
        """
        definition = (Path(folder) / FILE).read_text(encoding="utf-8")
        end_of_text = read_state(folder).get("end_of_text") or _last_token(Path(folder) / CONFIG_FILE)
        try:
            return cls(definition, end_of_text or END_OF_TEXT)
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from error

    def _recognises(self, allowed: frozenset[str]) -> Any:
        """The library's tokenizer that recognises the allowed special tokens and no others."""
        if allowed not in self._recognising:
            # The library recognises all or none; a token that is not special is always recognised, with the same id.
            definition = json.loads(self.definition)
            others = self._special_tokens.keys() - allowed - {definition["model"].get("unk_token")}
            added = [token for token in definition["added_tokens"] if token["content"] not in others]
            definition["added_tokens"] = [t | {"special": t["special"] and t["content"] not in allowed} for t in added]
            definition["post_processor"] = None  # it may name the others
            _hide(definition["model"], others)
            self._recognising[allowed] = _parse(json.dumps(definition))
        return self._recognising[allowed]


def _hide(model: dict[str, Any], tokens: AbstractSet[str]) -> None:
    """Rename tokens within the vocabulary, ids kept, and undo their merges: the model would spell text with them."""
    vocab = model["vocab"]
    if "merges" in model:
        pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
        model["merges"] = [pair for pair in pairs if tokens.isdisjoint([*pair, "".join(pair)])]
    if isinstance(vocab, dict):
        for token in tokens & vocab.keys():
            vocab[f"\0{token}\0"] = vocab.pop(token)
    else:
        for piece in vocab:
            piece[0] = f"\0{piece[0]}\0" if piece[0] in tokens else piece[0]


def _last_token(file: Path) -> str | None:
    """The eos_token of a tokenizer_config.json, or else its sep_token; None if there is no such file or token."""
    config = read_object(file)
    token = config.get("eos_token") or config.get("sep_token")
    return token["content"] if isinstance(token, dict) else token


def has_library() -> bool:
    """Whether import_library would succeed, found without importing."""
    return find_spec("tokenizers") is not None


def import_library() -> Any:
    """The tokenizers library. Raises ImportError, saying what to install, without it."""
    try:
        import tokenizers
    except ImportError as error:
        raise ImportError(f"a {FILE} needs {INSTALL}") from error
    return tokenizers


def _parse(definition: str) -> Any:
    """The library's tokenizer, recognising no special tokens and returning every token of a text."""
    tokenizers = import_library()
    try:
        library = tokenizers.Tokenizer.from_str(definition)
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"{FILE}: {error}") from error
    library.no_truncation()
    library.no_padding()
    library.encode_special_tokens = True
    return library
