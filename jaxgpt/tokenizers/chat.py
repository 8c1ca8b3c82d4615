"""A conversation as the text a model was trained to read, by the chat template that its checkpoint brings."""

import functools
import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any

from jaxgpt.checks import require
from jaxgpt.tokenizers.parts import split, spoil

TEMPLATE_FILE = "chat_template.jinja"
OLD_TEMPLATE_FILE = "chat_template.json"

Messages = Sequence[Any]
"""Each {"role": who speaks ("system", "user", "assistant"), "content": what is said}, both texts; `check` looks."""


class ChatTemplate:
    """A chat template, in Jinja: a program that strangers wrote, so it runs in Jinja's sandbox.

    source: the template. tokens: the variables it reads besides the conversation, {"bos_token": "<s>", ...}.
    The sandbox keeps a template from Python and from changing what it is given; it does not bound how long one runs,
    but for ranges above 100,000.
    """

    def __init__(self, source: str, tokens: Mapping[str, str]):
        self.source = source
        self.tokens = dict(tokens)

    def render(self, messages: Messages, *, add_generation_prompt: bool = False) -> str:
        """The conversation as text, as transformers' apply_chat_template(tokenize=False) writes it.

        add_generation_prompt: whether the text ends with what begins an answer.
        Raises ValueError for messages that are not of the form above, naming the index; for a template that is
        broken, fails, refuses the conversation or reaches for what the sandbox forbids. ImportError without Jinja2.
        """
        check(messages)
        return self._render([dict(message) for message in messages], add_generation_prompt)

    def parts(
        self,
        messages: Messages,
        special: Collection[str],
        *,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
    ) -> list[str]:
        """The same text, cut at the special tokens that the template wrote: text and tokens by turns, text first.

        continue_final_message: whether the text ends with the last message, for the model to go on with it; a template
        that takes white space off a message takes it off there too.

        What looks like a special token in a message is text: while the template runs it holds a private-use character
        that no message has, which is taken out of the result. Three things follow. A template that compares a
        message's text with a special token, or measures it, sees it so. A token that a template puts together with a
        role ('<|' + role + '|>') is the template's. And a special token of one character counts as the template's.
        Raises as render does.
        """
        check(messages)
        said = "".join(text for message in messages for text in message.values())
        mark, end = islice((c for c in map(chr, range(0xE000, 0xF900)) if c not in said), 2)
        spoilt = [{key: spoil(text, special, mark) for key, text in message.items()} for message in messages]
        if continue_final_message:
            spoilt[-1]["content"] += end + " "
        text = self._render(spoilt, add_generation_prompt)
        if continue_final_message:
            require(end in text, "chat_template", "no last message in what it writes", "one, to go on with it")
            text, _, after = text.rpartition(end)
            text = text if after.startswith(" ") else text.rstrip()
        return [part.replace(mark, "") for part in split(text, special)]

    def _render(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        variables = {"messages": messages, "tools": None, "documents": None} | self.tokens
        try:
            return _compiled(self.source).render(**variables, add_generation_prompt=add_generation_prompt)
        except ImportError:
            raise
        except Exception as error:  # whatever a stranger's program raises
            raise ValueError(f"chat_template: {error or type(error).__name__}") from error


def read(files: Mapping[str, str], tokens: Mapping[str, str]) -> ChatTemplate | None:
    """The template of a checkpoint, None without one.

    files: the texts of chat_template.jinja, chat_template.json and tokenizer_config.json, where they are; the first
        that has a template says it. Of several templates with names, the one called "default".
    Raises ValueError for one that is no text, or none of that name.
    """
    name, found = TEMPLATE_FILE, files.get(TEMPLATE_FILE)
    for name in (OLD_TEMPLATE_FILE, "tokenizer_config.json") if found is None else ():
        found = json.loads(files.get(name, "{}")).get("chat_template")
        if found is not None:
            break
    if isinstance(found, list):
        named = {one["name"]: one["template"] for one in found}
        require("default" in named, f"{name}: chat_template", sorted(named), "one of the name 'default'")
        found = named["default"]
    require(found is None or isinstance(found, str), f"{name}: chat_template", found, "a text")
    return None if found is None else ChatTemplate(found, tokens)


def check(messages: Messages) -> None:
    """Raise ValueError, naming the index, unless messages is a list of {"role": str, "content": str}, not empty."""
    expected = 'a list of {"role": str, "content": str}, not empty'
    require(isinstance(messages, Sequence) and not isinstance(messages, str), "messages", messages, expected)
    require(len(messages) > 0, "messages", messages, expected)
    for i, message in enumerate(messages):
        known = isinstance(message, Mapping) and message.keys() == {"role", "content"}
        require(known, f"message {i}", message, '{"role": str, "content": str}')
        for key, text in message.items():
            require(type(text) is str, f"message {i}: {key}", text, "a text")


@functools.lru_cache(maxsize=16)
def _compiled(source: str) -> Any:
    return _environment().from_string(source)


@functools.cache
def _environment() -> Any:
    """Jinja as transformers sets it up (`transformers.utils.chat_template_utils`), but for what it counts."""
    try:
        from jinja2 import TemplateError, nodes
        from jinja2.ext import Extension, loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
    except ImportError as error:
        raise ImportError("a chat template needs Jinja2: pip install 'jaxgpt[chat]'") from error

    class Sandbox(ImmutableSandboxedEnvironment):
        def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
            # Jinja's own raises once the result is used, and prints as nothing.
            raise SecurityError(f"found {attribute!r} of a {type(obj).__name__}, expected nothing of Python's own")

    class Generation(Extension):
        """{% generation %}: marks an answer for training; here its text only."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):  # Jinja's own escapes HTML
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment
