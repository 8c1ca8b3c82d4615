"""Conversations on disk, and the tokens of them that a model is to learn: those of the answers."""

import json
from collections.abc import Callable, Collection, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from jaxgpt.checks import require
from jaxgpt.data.config import DataConfig
from jaxgpt.data.tables import Record, field_text, read_table, table_file
from jaxgpt.tokenizers import Tokenizer, chat
from jaxgpt.tokenizers.base import write_whole
from jaxgpt.tokenizers.styles import INPUT

T = TypeVar("T")
FORMS = "messages, or instruction and output, or prompt and completion"


class Conversation(NamedTuple):
    """What was said, each {"role": ..., "content": ...}; its record as it came, and where."""

    place: str
    messages: list[dict[str, str]]
    record: dict[str, Any]


class Conversations(NamedTuple):
    """The parts of a file; what is kept for a test is read by nobody here."""

    train: list[Conversation]
    validation: list[Conversation]
    test: list[Conversation]


def check_conversations(config: DataConfig) -> None:
    """Raise FileNotFoundError or ValueError for files that `read_conversations` could not read, having only looked."""
    table_file(config.path)
    if config.validation_path is not None:
        table_file(config.validation_path, "data.validation_path")


def read_conversations(config: DataConfig, seed: int, log: Callable[[str], None] = print) -> Conversations:
    """The conversations of config.path: test_fraction and validation_fraction of them, drawn by seed, are held out.

    A record is {"messages": [{"role", "content"}, ...]}, or Alpaca's {"instruction", "input", "output"}, or {"prompt",
    "completion"}. Raises FileNotFoundError or ValueError, naming the place, for a record of no such form, for one
    without an answer and for an empty answer; and where no conversation is left for a part.
    """
    found = _read(config, config.path, "data.path", log)
    held_apart = config.validation_path is not None
    test, held, train = drawn_parts(
        found, config.test_fraction, 0.0 if held_apart else config.validation_fraction, seed
    )
    if held_apart:
        held = _read(config, config.validation_path, "data.validation_path", log)
    for part, size in (("training", len(train)), ("validation", len(held))):
        require(size > 0, f"data.path: {part} conversations", size, "one or more")
    return Conversations(train, held, test)


def drawn_parts(items: list[T], test: float, validation: float, seed: int) -> tuple[list[T], list[T], list[T]]:
    """Shares of the items for a test and to validate on, drawn, and the rest; each in order."""
    order = np.random.default_rng(seed).permutation(len(items))
    n_test = int(len(items) * test)
    parts = np.split(order, [n_test, n_test + int(len(items) * validation)])
    return tuple([items[i] for i in sorted(part)] for part in parts)


def _read(config: DataConfig, path: str, setting: str, log: Callable[[str], None]) -> list[Conversation]:
    return [_conversation(record, config) for record in read_table(table_file(path, setting), {}, log)]


def _conversation(record: Record, config: DataConfig) -> Conversation:
    fields = record.fields
    if "messages" in fields:
        messages = fields["messages"]
        try:
            chat.check(messages)
        except ValueError as error:
            raise ValueError(f"{record.place}: {error}") from error
        messages = [dict(message) for message in messages]
    elif {"instruction", "output"} <= fields.keys():
        asked = field_text(record, "instruction")
        if fields.get("input"):
            asked += (INPUT if config.style in (None, "alpaca") else "\n") + field_text(record, "input")
        messages = _exchange(asked, field_text(record, "output"))
    elif {"prompt", "completion"} <= fields.keys():
        messages = _exchange(field_text(record, "prompt"), field_text(record, "completion"))
    else:
        raise ValueError(f"{record.place}: found the fields {', '.join(map(str, fields))}, expected {FORMS}")
    answers = [message["content"] for message in messages if message["role"] == "assistant"]
    require(len(answers) > 0, f"{record.place}: messages", [message["role"] for message in messages], "an assistant's")
    require(all(answer.strip() for answer in answers), record.place, "an empty answer", "a text")
    return Conversation(record.place, messages, fields)


def _exchange(asked: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]


def encode(
    tokenizer: Tokenizer, messages: Sequence[dict[str, str]], ends: Collection[int]
) -> tuple[list[int], list[bool]]:
    """The ids of a conversation by the tokenizer's template, and which of them are of an answer, its end included.

    ends: ids that end an answer; where the last answer has none after it, the tokenizer's end-of-text is added.
    What comes before an answer is encoded by itself, as it is when the answer is to be made.
    Raises ValueError for a template that writes the beginning of a conversation otherwise than when it goes on.
    """
    template = tokenizer.chat_template
    require(template is not None, "tokenizer", tokenizer.kind, "one with a chat template")

    def atoms(messages: Sequence[dict[str, str]], asked: bool) -> list[str]:
        return template.parts(messages, tokenizer.special_tokens, add_generation_prompt=asked)

    whole = atoms(messages, False)
    places = [(0, 0)]
    for i, message in enumerate(messages):
        if message["role"] == "assistant":
            for prefix, all_of_it in ((atoms(messages[:i], True), True), (atoms(messages[: i + 1], False), False)):
                place = _common(whole, prefix)
                same = place == (len(prefix) - 1, len(prefix[-1])) or not all_of_it
                require(same, "chat_template", f"another beginning before answer {i}", "one that stays as it was")
                places.append(place)
    places.append((len(whole) - 1, len(whole[-1])))
    ids: list[int] = []
    learnt: list[bool] = []
    for number, (start, end) in enumerate(pairwise(places)):
        own = tokenizer.encode_parts(_between(whole, start, end))
        answer = number % 2 == 1
        last = next((k + 1 for k, token in enumerate(own) if token in ends), None)
        if answer and last is None and number == len(places) - 3 and tokenizer.end_of_text is not None:
            own.append(tokenizer.end_of_text)
        ids += own
        learnt += [answer and (last is None or k < last) for k in range(len(own))]
    return ids, learnt


def _common(a: Sequence[str], b: Sequence[str]) -> tuple[int, int]:
    """Where two texts, cut at special tokens, part: in which piece, after how many characters."""
    k = next((k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)) - 1)
    x, y = a[k], b[k]
    alike = next((n for n in range(min(len(x), len(y))) if x[n] != y[n]), min(len(x), len(y)))
    return (k, 0) if k % 2 else (k, alike)


def _between(parts: Sequence[str], start: tuple[int, int], end: tuple[int, int]) -> list[str]:
    """The pieces from one place to another, text first."""
    (first, at), (last, to) = start, end
    if first == last:
        return [parts[first][at:to]] if first % 2 == 0 else [""]
    head = [parts[first][at:]] if first % 2 == 0 else ["", parts[first]]
    tail = [parts[last][:to]] if last % 2 == 0 else []
    return [*head, *parts[first + 1 : last], *tail]


def write_records(conversations: Sequence[Conversation], file: Path) -> None:
    """The records as they came, a line each."""
    write_whole(file, "".join(json.dumps(one.record, ensure_ascii=False) + "\n" for one in conversations))
