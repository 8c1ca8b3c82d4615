"""What every tokenizer does."""

import copy
import json
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from operator import index
from pathlib import Path
from typing import Any, ClassVar, Literal, SupportsIndex

import numpy as np
from jaxtyping import Bool

from jaxgpt.checks import require
from jaxgpt.tokenizers.chat import OLD_TEMPLATE_FILE, TEMPLATE_FILE, ChatTemplate, Messages
from jaxgpt.tokenizers.framing import Framing

END_OF_TEXT = "<|endoftext|>"
STATE_FILE = "jaxgpt_tokenizer.json"
FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
BESIDE = (CONFIG_FILE, "special_tokens_map.json", TEMPLATE_FILE, OLD_TEMPLATE_FILE)
"""What may stand beside a tokenizer.json and say more of it."""


class Tokenizer(ABC):
    """Text to token ids and back.

    Text that looks like a special token is ordinary text unless the caller allows it: a user's text never turns into
    control tokens, and never raises for containing one.
    """

    kind: ClassVar[str]
    """What the state file calls this class."""
    _template: str | None = None

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """One more than the largest id."""

    @property
    def ids(self) -> Collection[int]:
        """The ids that stand for a token: all below vocab_size, but for gaps."""
        return range(self.vocab_size)

    @property
    def special_tokens(self) -> dict[str, int]:
        """The ids of the tokens that are no text; ordinary text encodes to none of them, but for an unknown word's."""
        return {}

    @property
    def end_of_text(self) -> int | None:
        """The id of the special token that ends a document, None if there is none."""
        return self.special_tokens.get(END_OF_TEXT)

    @property
    def begin_of_text(self) -> int | None:
        """The id of the special token that begins a document, None where the tokenizer does not say."""
        return None

    @property
    def cls(self) -> int | None:
        """The id of the special token that begins a row of an encoder, [CLS] or <s>; None if there is none."""
        return self._named("[CLS]", "<s>")

    @property
    def sep(self) -> int | None:
        """The id of the special token that ends each text of a row, [SEP] or </s>; None if there is none."""
        return self._named("[SEP]", "</s>")

    @property
    def mask(self) -> int | None:
        """The id of the special token that hides another, [MASK] or <mask>; None if there is none."""
        return self._named("[MASK]", "<mask>")

    @property
    def pad(self) -> int | None:
        """The id of the special token that fills a row up, [PAD] or <pad>; None if there is none."""
        return self._named("[PAD]", "<pad>")

    @property
    def continues(self) -> Bool[np.ndarray, "vocab_size"] | None:
        """True at each token that goes on within the word before it (##ing); None if tokens do not tell."""
        return None

    @property
    def framing(self) -> Framing:
        """What begins and ends the texts that the model reads; nothing where the tokenizer does not say."""
        return Framing()

    @property
    def chat_template(self) -> ChatTemplate | None:
        """How a conversation becomes text; None where the tokenizer does not say."""
        if self._template is None:
            return None
        names = {token: name for name, token in self.special_tokens.items()}
        return ChatTemplate(self._template, {"eos_token": names.get(self.end_of_text, "")})

    def with_chat_template(self, source: str) -> "Tokenizer":
        """The same tokenizer with this chat template, in Jinja."""
        other = copy.copy(self)
        other._template = source
        return other

    @property
    def start(self) -> list[int]:
        """What a text with nothing before it goes on from: end_of_text, else a line break, else the lowest id."""
        if self.end_of_text is not None:
            return [self.end_of_text]
        try:
            return self.encode("\n") or [min(self.ids)]
        except ValueError:  # characters, learnt from a text of one line
            return [min(self.ids)]

    @abstractmethod
    def encode(self, text: str, *, allowed_special: AbstractSet[str] | Literal["all"] = frozenset()) -> list[int]:
        """The ids of text, with nothing added in front or behind.

        allowed_special: the special tokens to recognise in text. Raises ValueError for one this tokenizer lacks.
        A lone surrogate, which no UTF-8 can hold, is read as U+FFFD wherever bytes are encoded (BPE, tokenizer.json).
        """

    def encode_batch(
        self, texts: Sequence[str], *, allowed_special: AbstractSet[str] | Literal["all"] = frozenset()
    ) -> list[list[int]]:
        """encode of each text."""
        return [self.encode(text, allowed_special=allowed_special) for text in texts]

    def encode_parts(self, parts: Sequence[str]) -> list[int]:
        """The ids of text and special tokens by turns, text first: no part that is text becomes a special token.

        Raises KeyError for a special token this tokenizer lacks.
        """
        special_tokens = self.special_tokens
        ids = []
        for i, part in enumerate(parts):
            ids += [special_tokens[part]] if i % 2 else self.encode(part)
        return ids

    def encode_chat(
        self, messages: Messages, *, add_generation_prompt: bool = True, continue_final_message: bool = False
    ) -> list[int]:
        """The ids of a conversation, as the chat template writes it; nothing is to be framed again.

        messages: each {"role": str, "content": str}. add_generation_prompt: whether an answer is to follow.
        continue_final_message: whether the last message is to go on; then there is no answer that could follow.
        The ids are those of transformers' apply_chat_template, but that what looks like a special token in a message
        is text (see ChatTemplate.parts for the rule).
        Raises ValueError as ChatTemplate.render does, and for a tokenizer without a template.
        """
        template = self.chat_template
        require(template is not None, "tokenizer", self.kind, "one with a chat template")
        parts = template.parts(
            messages,
            self.special_tokens,
            add_generation_prompt=add_generation_prompt and not continue_final_message,
            continue_final_message=continue_final_message,
        )
        return self.encode_parts(parts)

    def frame(self, ids: Sequence[int], pair: Sequence[int] | None = None) -> list[int]:
        """The ids of a text, or of two, as the model was trained to read them: [CLS] ids [SEP], <s> ids, ids </s>.

        Of a text without special tokens, frame(encode(text)) is transformers' AutoTokenizer(text).input_ids; where
        there are some, transformers reads them as control tokens and jaxgpt as text.
        """
        return self.framing.ids(ids, pair)

    def segments(self, ids: Sequence[int], pair: Sequence[int] | None = None) -> list[int]:
        """The segment of each id of frame(ids, pair), which a BERT reads too: token_type_ids."""
        return self.framing.segments(ids, pair)

    @abstractmethod
    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """The text of ids, special tokens included; bytes that are not UTF-8 become U+FFFD.

        Raises ValueError for an id that stands for no token.
        """

    def settles(self, token: int) -> bool:
        """Whether text that ends with token is final, whatever follows it (a character still missing bytes aside)."""
        return True

    @abstractmethod
    def save(self, folder: str | Path) -> None:
        """Writes the tokenizer into folder, made if missing, for jaxgpt.tokenizers.load.

        Where its format can say what this tokenizer does, a tokenizer.json too, for every other program.
        """

    @classmethod
    @abstractmethod
    def from_folder(cls, folder: str | Path) -> "Tokenizer":
        """The tokenizer of this kind that was saved in folder."""

    def _save(self, folder: str | Path, files: Mapping[str, str | bytes], **state: Any) -> None:
        """Writes files, then the one that says of which kind the tokenizer is and whatever else from_folder needs.

        Another tokenizer's tokenizer.json and what stood beside it, which would belie this one, goes.
        """
        files = dict(files) | ({} if self._template is None else {TEMPLATE_FILE: self._template})
        for name, content in files.items():
            write_whole(Path(folder) / name, content)
        write_whole(Path(folder) / STATE_FILE, json.dumps({"kind": self.kind, **state}))
        for name in {FILE, *BESIDE} - files.keys():
            (Path(folder) / name).unlink(missing_ok=True)

    def _named(self, *names: str) -> int | None:
        """The id of the special token with the first of the names that one has."""
        special_tokens = self.special_tokens
        return next((special_tokens[name] for name in names if name in special_tokens), None)

    def _allowed(self, allowed_special: AbstractSet[str] | Literal["all"]) -> frozenset[str]:
        """allowed_special as a set of this tokenizer's special tokens. Raises ValueError for any other."""
        known = self.special_tokens.keys()
        allowed = frozenset(known if allowed_special == "all" else allowed_special)
        if unknown := sorted(allowed - known):
            raise ValueError(f"allowed_special: found {unknown[0]!r}, expected one of {sorted(known)}")
        return allowed

    def _checked(self, ids: Iterable[SupportsIndex], assigned: Container[int]) -> list[int]:
        """ids as plain integers. Raises ValueError for one that is not assigned to a token."""
        tokens = list(map(index, ids))
        for token in tokens:
            if token not in assigned:
                gap = ", and this id is unused" if 0 <= token < self.vocab_size else ""
                raise ValueError(f"token id: found {token}, expected 0..{self.vocab_size - 1}{gap}")
        return tokens


def as_texts(texts: str | Iterable[str]) -> Iterable[str]:
    """texts, or the one text given in their place: a str is itself an iterable of one-character texts."""
    return [texts] if isinstance(texts, str) else texts


def well_formed(text: str) -> str:
    """text with surrogate pairs joined and lone surrogates replaced by U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def read_state(folder: str | Path) -> dict[str, Any]:
    """What Tokenizer._save wrote into folder; empty if nothing was."""
    return read_object(Path(folder) / STATE_FILE)


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in file; empty if there is no file. Raises ValueError, naming the file, for anything else."""
    return parse_object(str(file), file.read_bytes()) if file.is_file() else {}


def parse_object(name: str, text: str | bytes) -> dict[str, Any]:
    """The JSON object that text is. Raises ValueError, naming the file, for anything else.

    A name that stands twice in an object is refused too: readers differ in which of the two they take.
    """
    try:
        found = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name}: found bad JSON ({error}), expected an object") from error
    if not isinstance(found, dict):
        raise ValueError(f"{name}: found a JSON {type(found).__name__}, expected an object")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"{Counter(name for name, _ in pairs).most_common(1)[0][0]!r} stands twice")
    return found


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes the file all or not at all: beside path, then renamed onto it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
