"""The task "text-generation": texts that go on from prompts, and answers in conversations."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Array, Key

from jaxgpt.checks import check_names, check_types, require
from jaxgpt.generation import CHUNK, WATCHED_CHUNK, pieces, random_key, row_keys
from jaxgpt.model import GenerationDefaults, Model
from jaxgpt.sampling import Sampler
from jaxgpt.tokenizers.chat import Messages

Prompt = str | Messages
NEW_TOKENS = 256  # as transformers, where neither the caller nor the checkpoint says
_IDLE = ("pad_token_id", "tokenizer", "use_cache")  # what transformers needs besides, and that changes no text


@dataclass(frozen=True)
class Options:
    """What a call may say, by transformers' names, but for seed."""

    max_new_tokens: int | None = None
    """Most new tokens (None: by max_length; 256 where that is None too)."""
    max_length: int | None = None
    """Most tokens of prompt and text together, where max_new_tokens is None."""
    do_sample: bool = True
    """Draw tokens; otherwise the likeliest is taken, whatever the next four say."""
    temperature: float | int = 0.7
    """As of `Sampler`, and so the next three."""
    top_k: int | None = 50
    """None or 0 for no limit."""
    top_p: float | int | None = None
    min_p: float | int | None = None
    repetition_penalty: float | int | None = None
    """As of `Sampler`; acts whether tokens are drawn or not."""
    stop_strings: str | list | tuple[str, ...] | None = None
    """A text ends with the token that completes one of these; they stay in it."""
    eos_token_id: int | list | tuple[int, ...] | None = None
    """Ids that end a text (None: the model's own)."""
    num_return_sequences: int = 1
    """Texts of each prompt."""
    return_full_text: bool = True
    """The prompt and the text together; otherwise the text alone."""
    batch_size: int = 8
    """Prompts at once."""
    seed: int = 0
    """Of the draws: the same seed gives the same texts."""

    def __post_init__(self):
        check_types(self)
        for name in ("max_new_tokens", "max_length", "num_return_sequences", "batch_size"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, "a positive integer")
        self.sampler()

    def sampler(self) -> Sampler:
        """How tokens are chosen."""
        if not self.do_sample:
            return Sampler(repetition_penalty=self.repetition_penalty)
        return Sampler(self.temperature, self.top_k or None, self.top_p, self.min_p, self.repetition_penalty)

    def room(self, prompt: int) -> int:
        """Most new tokens after a prompt of so many. Raises ValueError for none."""
        if self.max_new_tokens is not None or self.max_length is None:
            return self.max_new_tokens or NEW_TOKENS
        require(prompt < self.max_length, "max_length", self.max_length, f"more than the prompt's {prompt} tokens")
        return self.max_length - prompt


class TextGeneration:
    """Goes on from texts, and answers conversations, as transformers' pipeline of that task.

    options: fields of `Options`, for every call; where none is given the checkpoint's generation_config.json has the
    word, and then `Options`. num_beams may be given too, as 1.
    Raises ValueError for a model that does not go on with a text and for options that can't be used.
    """

    def __init__(self, model: Model, **options: Any):
        require(model.config.architecture == "decoder", "model.architecture", model.config.architecture, "decoder")
        self.model = model
        self._defaults = {"num_beams": model.generation.beam} | said(model.generation) | options
        self._options({})

    def __call__(self, inputs: Prompt | Sequence[Prompt], **options: Any) -> list:
        """[{"generated_text": ...}], one for each of num_return_sequences; of a list of inputs, a list of that.

        inputs: a text, or a conversation, a list of {"role": str, "content": str}; or a list of either.
        What comes of a text is a text; of a conversation, the conversation with the answer as its last message, or,
        without return_full_text, the answer. One whose last message is the assistant's goes on with that message.
        As in transformers, what looks like a special token in a text is one (in a message it is text), and new tokens
        are decoded alone: with Llama 2's kind of tokenizer, without the space that may stand before the first word.
        Raises ValueError, before any work, for inputs or options that can't be used.
        """
        chosen = self._options(options)
        single = isinstance(inputs, str) or _is_chat(inputs)
        prompts = [inputs] if single else list(inputs)
        texts = self._texts([self._tokens(prompt) for prompt in prompts], chosen)
        results = []
        for prompt, made in zip(prompts, texts, strict=True):
            wholes = [_together(prompt, text) if chosen.return_full_text else text for text in made]
            results.append([{"generated_text": whole} for whole in wholes])
        return results[0] if single else results

    def stream(self, inputs: Prompt, **options: Any) -> Iterator[str]:
        """The new text for one prompt, in pieces as it comes; as a call gives it without return_full_text."""
        chosen = self._options(options)
        require(chosen.num_return_sequences == 1, "num_return_sequences", chosen.num_return_sequences, "1, to stream")
        prompt = self._tokens(inputs)
        key = row_keys(random_key(chosen.seed), [prompt])
        found = self._pieces([prompt], key, chosen.room(len(prompt)), chosen, WATCHED_CHUNK)
        return (piece for (piece,) in found if piece)

    def _options(self, options: Mapping[str, Any]) -> Options:
        given = {name: value for name, value in (self._defaults | dict(options)).items() if name not in _IDLE}
        beam = given.pop("num_beams")
        require(beam == 1, "num_beams", beam, "1: there is no beam search from a prompt")
        check_names(given, Options)
        return Options(**given)

    def _tokens(self, prompt: Any) -> list[int]:
        """A prompt as the model reads it."""
        tokenizer = self.model.tokenizer
        if isinstance(prompt, str):
            return tokenizer.frame(tokenizer.encode(prompt, allowed_special="all")) or tokenizer.start
        require(_is_chat(prompt), "inputs", prompt, "a text, a conversation, or a list of either")
        return tokenizer.encode_chat(prompt, continue_final_message=_goes_on(prompt))

    def _texts(self, prompts: list[list[int]], chosen: Options) -> list[list[str]]:
        """The new texts of each prompt."""
        copies = chosen.num_return_sequences
        keys = row_keys(random_key(chosen.seed), prompts, copies)  # of all together: no text depends on its batch
        rooms = [chosen.room(len(prompt)) for prompt in prompts]
        batches = []
        for room in sorted(set(rooms)):
            alike = [i for i, other in enumerate(rooms) if other == room]
            batches += [(room, alike[i : i + chosen.batch_size]) for i in range(0, len(alike), chosen.batch_size)]
        running = []  # each refuses what it can't use before the first begins
        for room, batch in batches:
            rows = np.array([i * copies + copy for i in batch for copy in range(copies)])
            running.append(self._pieces([prompts[i] for i in batch], keys[rows], room, chosen))

        texts = {}
        for (_, batch), found in zip(batches, running, strict=True):
            rows = ["".join(row) for row in zip(*found, strict=True)]
            texts |= {i: rows[n * copies : (n + 1) * copies] for n, i in enumerate(batch)}
        return [texts[i] for i in range(len(prompts))]

    def _pieces(
        self, prompts: list[list[int]], keys: Key[Array, "rows"], room: int, chosen: Options, chunk: int = CHUNK
    ) -> Iterator[list[str]]:
        special, own = self.model.tokenizer.special_tokens, self.model.generation.end_tokens
        stops = _listed(chosen.stop_strings)
        return pieces(
            self.model,
            prompts,
            keys,
            max_new_tokens=room,
            sampler=chosen.sampler(),
            stop=[stop for stop in stops if stop not in special],
            # A special token is in no text, and ends one all the same.
            end_tokens=[
                *(own if chosen.eos_token_id is None else _listed(chosen.eos_token_id)),
                *(special[stop] for stop in stops if stop in special),
            ],
            num_samples=chosen.num_return_sequences,
            chunk=chunk,
            alone=True,
        )


def said(generation: GenerationDefaults) -> dict[str, Any]:
    """What a checkpoint says of the fields of `Options`."""
    names = (
        "max_new_tokens",
        "max_length",
        "do_sample",
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "repetition_penalty",
    )
    return {name: value for name in names if (value := getattr(generation, name)) is not None}


def _listed(values: Any) -> Sequence:
    """The values, or the one that is given in their place."""
    return () if values is None else values if isinstance(values, list | tuple) else (values,)


def _is_chat(inputs: Any) -> bool:
    return isinstance(inputs, list | tuple) and len(inputs) > 0 and isinstance(inputs[0], Mapping)


def _goes_on(messages: Messages) -> bool:
    """Whether the conversation ends with an answer that is to go on."""
    return messages[-1]["role"] == "assistant"


def _together(prompt: Prompt, text: str) -> Any:
    if isinstance(prompt, str):
        return prompt + text
    if _goes_on(prompt):
        *before, last = prompt
        return [*before, dict(last) | {"content": last["content"] + text}]
    return [*prompt, {"role": "assistant", "content": text}]
