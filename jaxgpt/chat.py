"""A conversation with a model: what was said, as far as the model can read it, and answers piece by piece."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from jaxgpt.checks import require
from jaxgpt.model import Model
from jaxgpt.pipelines.text_generation import TextGeneration

NEW_TOKENS = 512  # of an answer, where nobody says more


class Answer(NamedTuple):
    """What comes of a question."""

    forgotten: int
    """Messages that had to be left out of the history before it."""
    pieces: Iterator[str]
    """Its text as it comes. What has come is in the history, also if nobody reads on."""


class Chat:
    """The history of a conversation, `messages`, and the model that answers.

    system: what the model is told first. max_new_tokens: of an answer (None: as the checkpoint says, else 512; at most
    half of what the model can read). options: of `TextGeneration`.
    Raises ValueError for a tokenizer without a chat template, or whose template takes no system message, and for
    options that can't be used.
    """

    def __init__(self, model: Model, *, system: str | None = None, max_new_tokens: int | None = None, **options: Any):
        tokenizer, length = model.tokenizer, model.config.context_length
        expected = "one with a chat template; a model without goes on with a text: python -m jaxgpt generate"
        require(tokenizer.chat_template is not None, "tokenizer", tokenizer.kind, expected)
        if max_new_tokens is None:
            max_new_tokens = min(model.generation.max_new_tokens or NEW_TOKENS, length // 2)
        expected = f"fewer than the {length} tokens that the model can read"
        require(max_new_tokens < length, "max_new_tokens", max_new_tokens, expected)
        self.messages = [] if system is None else [{"role": "system", "content": system}]
        self._tokenizer, self._room = tokenizer, length - max_new_tokens
        self._generator = TextGeneration(model, max_new_tokens=max_new_tokens, **options)
        self._length([*self.messages, {"role": "user", "content": "?"}])  # the template may refuse a system message

    def ask(self, text: str) -> Answer:
        """Say something. Raises ValueError, the history as it was, for a text that is too long to be answered."""
        asked = [*self.messages, {"role": "user", "content": text}]
        kept = trim(asked, self._length, self._room)
        pieces = self._generator.stream(kept)
        answer = {"role": "assistant", "content": ""}
        self.messages = [*kept, answer]

        def told() -> Iterator[str]:
            for piece in pieces:
                answer["content"] += piece
                yield piece

        return Answer(len(asked) - len(kept), told())

    def _length(self, messages: list[dict[str, str]]) -> int:
        return len(self._tokenizer.encode_chat(messages))


def trim(messages: list[dict[str, str]], length: Callable[[list], int], room: int) -> list[dict[str, str]]:
    """The conversation without its oldest questions and answers, as many as it takes for length(it) to be in room.

    A system message at its beginning stays. Raises ValueError where the last message alone is too long.
    """
    start = int(messages[0]["role"] == "system")
    system, turns = messages[:start], messages[start:]
    while (found := length([*system, *turns])) > room:
        require(len(turns) > 2, "message", f"{found} tokens", f"at most {room}, which leave room for an answer")
        turns = turns[2:]
    return [*system, *turns]
