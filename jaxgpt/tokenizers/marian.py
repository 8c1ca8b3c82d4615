"""Marian's tokenizer: one SentencePiece model for the source, one for the target, and a vocabulary for both."""

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, SupportsIndex

from jaxgpt.checks import require
from jaxgpt.tokenizers.base import CONFIG_FILE, Tokenizer, parse_object
from jaxgpt.tokenizers.framing import Framing
from jaxgpt.tokenizers.parts import split

SOURCE_FILE = "source.spm"
TARGET_FILE = "target.spm"
VOCAB_FILE = "vocab.json"
FILES = (SOURCE_FILE, TARGET_FILE, VOCAB_FILE, CONFIG_FILE)
_ROLES = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


class MarianTokenizer(Tokenizer):
    """The tokenizer of a Marian translator (opus-mt): encodes text of the source language, decodes the target's.

    files: the bytes of source.spm, target.spm, vocab.json and, where it is there, tokenizer_config.json. `save` writes
        them as they are.
    A text may begin with the language to translate into, as >>fra<<, where the vocabulary has such tokens.
    Ids are those of transformers' MarianTokenizer without sacremoses, which would normalise punctuation first.
    Raises ImportError without the sentencepiece library, ValueError for files that are not of this form.
    """

    kind: ClassVar[str] = "marian"

    def __init__(self, files: dict[str, bytes]):
        self.files = files
        config = parse_object(CONFIG_FILE, files.get(CONFIG_FILE, b"{}"))
        separate = config.get("separate_vocabs", False)
        require(not separate, f"{CONFIG_FILE}: separate_vocabs", separate, "false: one vocabulary for both languages")
        self._ids = parse_object(VOCAB_FILE, files[VOCAB_FILE])
        self._tokens = {i: token for token, i in self._ids.items()}
        require(len(self._tokens) > 0, VOCAB_FILE, "no tokens", "at least one")
        self._source, self._target = (_model(name, files[name]) for name in (SOURCE_FILE, TARGET_FILE))
        roles = {role: config.get(role) or token for role, token in _ROLES.items()}
        self._roles = {role: token["content"] if isinstance(token, dict) else token for role, token in roles.items()}
        for role in ("eos_token", "unk_token"):
            require(self._roles[role] in self._ids, VOCAB_FILE, f"no {role}", self._roles[role])

    @property
    def vocab_size(self) -> int:
        return max(self._tokens) + 1

    @cached_property
    def ids(self) -> frozenset[int]:
        return frozenset(self._tokens)

    @property
    def special_tokens(self) -> dict[str, int]:
        return {token: self._ids[token] for token in self._roles.values() if token in self._ids}

    @property
    def end_of_text(self) -> int:
        return self._ids[self._roles["eos_token"]]

    @cached_property
    def framing(self) -> Framing:
        """What ends a text, or two together: </s>."""
        return Framing((*Framing().single, ((self.end_of_text,), 0)), (*Framing().pair, ((self.end_of_text,), 0)))

    def encode(self, text: str, *, allowed_special: AbstractSet[str] | Literal["all"] = frozenset()) -> list[int]:
        return self.encode_parts(split(text, self._allowed(allowed_special)))

    def encode_parts(self, parts: Sequence[str]) -> list[int]:
        return [token for i, part in enumerate(parts) for token in ([self._ids[part]] if i % 2 else self._pieces(part))]

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        special, text, run = self.special_tokens, "", []
        for token in self._checked(ids, self._tokens):
            if self._tokens[token] in special:
                text += f"{self._target.decode_pieces(run)}{self._tokens[token]} "
                run = []
            else:
                run.append(self._tokens[token])
        return (text + self._target.decode_pieces(run)).replace("▁", " ").strip()

    def save(self, folder: str | Path) -> None:
        self._save(folder, self.files)

    @classmethod
    def from_folder(cls, folder: str | Path) -> "MarianTokenizer":
        """The tokenizer of an opus-mt checkpoint. Raises FileNotFoundError, naming it, for a file that is missing."""
        found = {name: Path(folder) / name for name in FILES if name != CONFIG_FILE or (Path(folder) / name).is_file()}
        try:
            return cls({name: file.read_bytes() for name, file in found.items()})
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from error

    def _pieces(self, text: str) -> list[int]:
        """The ids of text: its language code, if it begins with one, and its pieces."""
        end = text.find("<<") + 2 if text.startswith(">>") else 0
        code, rest = (text[:end], text[end:]) if end > 2 else ("", text)
        unknown, special = self._ids[self._roles["unk_token"]], self.special_tokens
        pieces = [*filter(None, [code]), *self._source.encode(rest, out_type=str)]
        return [unknown if piece in special else self._ids.get(piece, unknown) for piece in pieces]


def _model(name: str, content: bytes) -> Any:
    try:
        import sentencepiece
    except ImportError as error:
        raise ImportError("Marian's tokenizer needs sentencepiece: pip install 'jaxgpt[marian]'") from error
    model = sentencepiece.SentencePieceProcessor()
    try:
        model.LoadFromSerializedProto(content)
    except Exception as error:  # a RuntimeError now
        raise ValueError(f"{name}: found no SentencePiece model ({error}), expected one") from error
    return model
