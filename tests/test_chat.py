"""A conversation: its history, what is left of it when it grows too long, and answers that are stopped."""

from dataclasses import replace

import pytest
from phi3 import write_tokenizer
from tiny import TINY, draw

from jaxgpt import gpt, tokenizers
from jaxgpt.chat import Chat, trim
from jaxgpt.model import GenerationDefaults, Model, Settings
from jaxgpt.pipelines.text_generation import TextGeneration
from jaxgpt.tokenizers import CharTokenizer

SYSTEM = {"role": "system", "content": "s"}


def said(*texts):
    """Messages of the texts, by turns of the user and the assistant."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def letters(messages):
    return sum(len(message["content"]) for message in messages)


@pytest.mark.parametrize("system", [[], [SYSTEM]])
@pytest.mark.parametrize(
    ("room", "kept"),
    [
        (10, ["ab", "c", "d", "ef", "ghi"]),
        (9, ["ab", "c", "d", "ef", "ghi"]),
        (8, ["d", "ef", "ghi"]),
        (6, ["d", "ef", "ghi"]),
        (5, ["ghi"]),
        (3, ["ghi"]),
    ],
)
def test_the_oldest_pairs_go_until_the_rest_has_room(system, room, kept):
    messages = [*system, *said("ab", "c", "d", "ef", "ghi")]
    assert trim(messages, letters, room + len(system)) == [*system, *said(*kept)]
    assert len(messages) == 5 + len(system)


@pytest.mark.parametrize("system", [[], [SYSTEM]])
@pytest.mark.parametrize("texts", [("ghi",), ("a", "b", "ghi")])
def test_a_message_that_has_no_room_alone_is_refused(system, texts):
    with pytest.raises(ValueError, match=r"message: found [34] tokens, expected at most 2, to leave room"):
        trim([*system, *said(*texts)], letters, 2)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """One that was never trained, with room for 64 tokens, and the template of Phi-3."""
    pytest.importorskip("tokenizers")
    pytest.importorskip("jinja2")
    folder = tmp_path_factory.mktemp("tokenizer")
    cfg = replace(TINY, n_layers=1, context_length=64, vocab_size=write_tokenizer(folder))
    settings = Settings(generation=GenerationDefaults(banned_tokens=tuple(range(8, 264))))  # bytes, which make no text
    return Model(cfg, draw(gpt.declare(cfg)), tokenizers.load(folder), settings)


OPTIONS = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": []}


def answered(model, messages):
    (found,) = TextGeneration(model, **OPTIONS)(messages)
    return found["generated_text"]


def ask(chat, text):
    """(messages forgotten, the whole answer)."""
    forgotten, pieces = chat.ask(text)
    return forgotten, "".join(pieces)


def test_an_answer_is_that_of_the_pipeline_to_all_that_was_said(model):
    chat = Chat(model, system="Be", **OPTIONS)
    expected = [SYSTEM | {"content": "Be"}]
    for text in ("Hi", "in"):
        expected = answered(model, [*expected, {"role": "user", "content": text}])
        assert ask(chat, text) == (0, expected[-1]["content"])
        assert chat.messages == expected
    assert len(chat.messages) == 5


def test_history_without_room_is_forgotten_but_for_the_system_message(model):
    chat = Chat(model, system="Be", **OPTIONS)
    counts = []
    for turn in range(6):
        text = "ab"[turn % 2]
        before = list(chat.messages)
        forgotten, answer = ask(chat, text)
        counts.append(forgotten)
        asked = [*before[:1], *before[1 + forgotten :], {"role": "user", "content": text}]
        assert chat.messages == [*asked, {"role": "assistant", "content": answer}] == answered(model, asked)
        assert len(model.tokenizer.encode_chat(asked)) + 8 <= 64
        if forgotten:
            kept = [*before[:1], *before[1 + forgotten - 2 :], asked[-1]]
            assert len(model.tokenizer.encode_chat(kept)) + 8 > 64  # no more than had to go
    assert 0 in counts
    assert {n % 2 for n in counts} == {0}
    assert sum(counts) > 2


def test_a_text_too_long_is_refused_and_the_conversation_goes_on(model):
    chat = Chat(model, **OPTIONS)
    ask(chat, "Hi")
    before = list(chat.messages)
    with pytest.raises(ValueError, match=r"message: found \d+ tokens, expected at most 56"):
        chat.ask("a" * 60)
    assert chat.messages == before
    assert ask(chat, "in")[1]


def test_an_answer_that_is_stopped_stays_as_far_as_it_came(model):
    chat = Chat(model, **OPTIONS)
    _, pieces = chat.ask("Hi")
    part = next(pieces)
    whole = answered(model, said("Hi"))
    assert chat.messages == said("Hi", part)
    assert whole[-1]["content"].startswith(part)
    assert whole[-1]["content"] != part
    _, answer = ask(chat, "in")  # the other is never read to its end
    assert chat.messages == [*said("Hi", part, "in"), {"role": "assistant", "content": answer}]
    assert chat.messages == answered(model, said("Hi", part, "in"))


@pytest.mark.parametrize(("length", "own", "given", "found"), [
    (64, None, None, 32), (2048, None, None, 512), (2048, 700, None, 700), (2048, 1500, None, 1024), (2048, 700, 9, 9),
])  # fmt: skip
def test_the_room_for_an_answer(model, length, own, given, found):
    settings = Settings(generation=GenerationDefaults(max_new_tokens=own))
    chat = Chat(
        replace(model, config=replace(model.config, context_length=length), settings=settings), max_new_tokens=given
    )
    assert (chat._room, chat._generator._options({}).max_new_tokens) == (length - found, found)


def test_what_can_not_hold_a_conversation_is_refused_at_once(model):
    plain = replace(model, tokenizer=CharTokenizer("ab"))
    with pytest.raises(ValueError, match=r"tokenizer: found 'char', expected one with a chat template; .* generate"):
        Chat(plain)
    with pytest.raises(ValueError, match="max_new_tokens: found 64, expected fewer than the 64 tokens"):
        Chat(model, max_new_tokens=64)
    with pytest.raises(ValueError, match="temperature: found -1, expected"):
        Chat(model, temperature=-1)
    refusing = tokenizers.JSONTokenizer(
        model.tokenizer.definition,
        {"chat_template.jinja": "{{ raise_exception('no system') if messages[0].role == 'system' else 'x' }}"},
    )
    Chat(replace(model, tokenizer=refusing))
    with pytest.raises(ValueError, match="chat_template: no system"):
        Chat(replace(model, tokenizer=refusing), system="Be")
