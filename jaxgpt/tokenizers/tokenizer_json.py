"""Any tokenizer.json of a Hugging Face checkpoint, run by the tokenizers library."""

import json
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal, SupportsIndex

import numpy as np
from jaxtyping import Bool

from jaxgpt.tokenizers import chat
from jaxgpt.tokenizers.base import (
    BESIDE,
    CONFIG_FILE,
    END_OF_TEXT,
    FILE,
    Tokenizer,
    parse_object,
    read_state,
    well_formed,
)
from jaxgpt.tokenizers.framing import Framing, read
from jaxgpt.tokenizers.parts import split

INSTALL = "the tokenizers library: pip install 'jaxgpt[tokenizers]'"
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_ROLES = tuple(f"{role}_token" for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
_SECRET = secrets.token_hex(8)  # of this process: no text can hold it


class JSONTokenizer(Tokenizer):
    """The tokenizer that a tokenizer.json describes, but for truncation and padding.

    definition: the text of the tokenizer.json.
    files: the texts of those files beside it that name the special tokens and say how a chat is written:
        tokenizer_config.json, special_tokens_map.json, chat_template.jinja, chat_template.json. `save` writes them as
        they are.
    library: the tokenizers.Tokenizer, for what only it has.
    Raises ImportError without the tokenizers library, ValueError for text that is no tokenizer.json, and for files
    that are no JSON objects.
    """

    kind: ClassVar[str] = "json"

    def __init__(self, definition: str, files: Mapping[str, str] | None = None):
        self.definition = definition
        self.files = dict(files or {})
        self.library = _parse(definition)
        self.roles = _roles(self.files)
        self._ids = self.library.get_vocab()
        self._assigned = frozenset(self._ids.values())
        self._special_tokens = {
            token.content: token_id
            for token_id, token in self.library.get_added_tokens_decoder().items()
            if token.special
        }
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
    def begin_of_text(self) -> int | None:
        """The bos_token."""
        return self._ids.get(self.roles.get("bos_token"))

    @property
    def end_of_text(self) -> int | None:
        """The eos_token, or else the sep_token, BERT's; where no file says either, <|endoftext|>."""
        return self._ids.get(self.roles.get("eos_token") or self.roles.get("sep_token") or END_OF_TEXT)

    @cached_property
    def framing(self) -> Framing:
        """As the post-processor of tokenizer.json adds; that alone says it.

        add_bos_token and add_eos_token of tokenizer_config.json do not, as in transformers 5: they are for checkpoints
        without a tokenizer.json. Raises ValueError for a post-processor that is not known.
        """
        return read(json.loads(self.definition).get("post_processor"))

    @cached_property
    def chat_template(self) -> chat.ChatTemplate | None:
        return chat.read(self.files, self.roles)

    def with_chat_template(self, source: str) -> "JSONTokenizer":
        return JSONTokenizer(self.definition, self.files | {chat.TEMPLATE_FILE: source})

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
        allowed = self._allowed(allowed_special)
        return self._encode([split(text, allowed) for text in texts])

    def encode_parts(self, parts: Sequence[str]) -> list[int]:
        return self._encode([parts])[0]

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        return self.library.decode(self._checked(ids, self._assigned), skip_special_tokens=False)

    def settles(self, token: int) -> bool:
        # One wrong byte turns the whole run of <0x..> tokens it stands in into U+FFFD.
        return token not in self._bytes

    def save(self, folder: str | Path) -> None:
        """Writes the files that it was made from, as they were, beside jaxgpt's own."""
        config = {CONFIG_FILE: json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"} | self.roles, indent=2)}
        self._save(folder, {FILE: self.definition} | config | self.files)

    @classmethod
    def from_folder(cls, folder: str | Path) -> "JSONTokenizer":
        """The tokenizer of a folder with a tokenizer.json: one saved here, or any Hugging Face checkpoint."""
        found = [name for name in (FILE, *BESIDE) if name == FILE or (Path(folder) / name).is_file()]
        # Bytes: reading text would make every line break \n, and save is to write what was there.
        files = {name: (Path(folder) / name).read_bytes().decode("utf-8") for name in found}
        definition = files.pop(FILE)
        if end_of_text := read_state(folder).get("end_of_text"):  # saved before the other files were
            files.setdefault(CONFIG_FILE, json.dumps({"eos_token": end_of_text}))
        try:
            return cls(definition, files)
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from error

    def _encode(self, texts: Iterable[Sequence[str]]) -> list[list[int]]:
        """The ids of texts, each text and special tokens by turns."""
        aliased = [
            "".join(_alias(self._special_tokens[part]) if i % 2 else well_formed(part) for i, part in enumerate(parts))
            for parts in texts
        ]
        # _fast leaves out character offsets: 1.8 times the speed for a long text.
        return [encoding.ids for encoding in self._aliasing.encode_batch_fast(aliased, add_special_tokens=False)]

    @cached_property
    def _aliasing(self) -> Any:
        """The library's tokenizer with every special token under a name that no text holds, and the same id.

        The library itself recognises all special tokens or none, and its model may spell a text with either.
        """
        definition = json.loads(self.definition)
        aliases = {token: _alias(i) for token, i in self._special_tokens.items()}
        for token in definition["added_tokens"]:
            if token["content"] in aliases:
                # As a token that is not special it is always recognised, also within a word.
                changes = {"special": False, "normalized": False, "single_word": False}
                token |= changes | {"content": aliases[token["content"]]}
        definition["post_processor"] = None  # it may name the others
        _rename(definition["model"], aliases)
        return _parse(json.dumps(definition))


def _alias(token: int) -> str:
    return f"<{_SECRET}.{token}>"


def _rename(model: dict[str, Any], names: Mapping[str, str]) -> None:
    """Rename tokens of the vocabulary, ids kept, and undo their merges: the model would spell text with them."""
    vocab = model["vocab"]
    if "merges" in model:
        pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
        model["merges"] = [pair for pair in pairs if names.keys().isdisjoint([*pair, "".join(pair)])]
    if isinstance(vocab, dict):
        for token in names.keys() & vocab.keys():
            vocab[names[token]] = vocab.pop(token)
    else:
        for piece in vocab:
            piece[0] = names.get(piece[0], piece[0])
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]


def _roles(files: Mapping[str, str]) -> dict[str, str]:
    """The special tokens by role, {"bos_token": "<s>", ...}, as tokenizer_config.json says.

    special_tokens_map.json has the last word, unless the other lists added_tokens_decoder, as in transformers.
    """
    said, later = (parse_object(name, files.get(name, "{}")) for name in (CONFIG_FILE, "special_tokens_map.json"))
    if "added_tokens_decoder" not in said:
        said |= later
    roles = {role: said[role] for role in _ROLES if said.get(role)}
    return {role: token["content"] if isinstance(token, dict) else token for role, token in roles.items()}


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
