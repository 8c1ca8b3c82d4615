"""Records as conversations, and which tokens of one are an answer's."""

import itertools
import json

import pytest

from jaxgpt.data import DataConfig
from jaxgpt.data.conversations import encode, read_conversations
from jaxgpt.tokenizers import BPETokenizer
from jaxgpt.tokenizers.styles import STYLES, styled

pytest.importorskip("jinja2")

TOKENIZER = BPETokenizer.train("what is a fox? a quick brown animal. and a dog? a lazy one.", 280)
END = TOKENIZER.end_of_text
TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "what is a fox?"},
    {"role": "assistant", "content": "a quick brown animal."},
    {"role": "user", "content": "and a dog?"},
    {"role": "assistant", "content": "a lazy one."},
]


def learnt_text(tokenizer, messages):
    """Each run of tokens that is learnt, as text."""
    ids, learnt = encode(tokenizer, messages, {tokenizer.end_of_text})
    runs, before = [], False
    for token, answer in zip(ids, learnt, strict=True):
        if answer:
            runs = [*runs, [token]] if not before else [*runs[:-1], [*runs[-1], token]]
        before = answer
    return [tokenizer.decode(run) for run in runs]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("count", [3, 5])
def test_every_answer_is_learnt_with_its_end_and_nothing_else(style, count):
    tokenizer = styled(TOKENIZER, style)
    mark = {"alpaca": "", "chatml": "<|im_end|>", "phi3": "<|end|>"}[style]
    answers = [turn["content"] + mark + "<|endoftext|>" for turn in TURNS[:count] if turn["role"] == "assistant"]
    assert learnt_text(tokenizer, TURNS[:count]) == answers


@pytest.mark.parametrize("style", STYLES)
def test_what_comes_before_an_answer_is_what_the_model_is_asked_with(style):
    tokenizer = styled(TOKENIZER, style)
    ids, learnt = encode(tokenizer, TURNS[:3], {END})
    asked = tokenizer.encode_chat(TURNS[:2])
    assert ids[: len(asked)] == asked
    assert learnt.index(True) == len(asked)
    text = tokenizer.chat_template.render(TURNS)
    assert tokenizer.decode(encode(tokenizer, TURNS, {END})[0]) == text


def test_alpaca_is_written_as_its_authors_did():
    tokenizer = styled(TOKENIZER, "alpaca")
    text = tokenizer.chat_template.render([{"role": "user", "content": "Add.\n\n### Input:\n1 2"}])
    assert text == (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n"
    )
    text = tokenizer.chat_template.render(TURNS[1:3])
    assert text.startswith("Below is an instruction that describes a task. Write a response that")
    assert text.endswith("\n\n### Response:\na quick brown animal.<|endoftext|>")


def test_a_template_that_ends_no_answer_gets_end_of_text():
    tokenizer = TOKENIZER.with_chat_template("{% for m in messages %}{{ m.content + '\n' }}{% endfor %}")
    assert learnt_text(tokenizer, TURNS[1:]) == ["a quick brown animal.\n", "a lazy one.\n<|endoftext|>"]


def test_a_template_whose_end_differs_with_what_follows():
    """Phi-3's own: end-of-text stands after the last message alone."""
    template = (
        "{% for m in messages %}{{ '<' + m.role + '>' + m.content + '/' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<assistant>' }}{% else %}{{ eos_token }}{% endif %}"
    )
    tokenizer = TOKENIZER.with_chat_template(template)
    assert learnt_text(tokenizer, TURNS[1:]) == ["a quick brown animal./", "a lazy one./<|endoftext|>"]


def test_a_template_that_writes_the_past_anew_is_refused():
    tokenizer = TOKENIZER.with_chat_template(
        "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    with pytest.raises(ValueError, match="chat_template: found 'another beginning before answer 1'"):
        encode(tokenizer, TURNS[1:], {END})


def test_a_template_is_saved_with_its_tokenizer(tmp_path):
    from jaxgpt.tokenizers import load

    styled(TOKENIZER, "chatml").save(tmp_path)
    assert load(tmp_path).encode_chat(TURNS[:2]) == styled(TOKENIZER, "chatml").encode_chat(TURNS[:2])
    TOKENIZER.save(tmp_path)
    assert load(tmp_path).chat_template is None


def records(tmp_path, *found, **config):
    file = tmp_path / "data.json"
    file.write_text(json.dumps(found))
    return read_conversations(DataConfig(path=str(file), **config), 0, lambda line: None)


ALPACA = {"instruction": "Add.", "input": "1 2", "output": "3"}
FORMS = {
    "alpaca": ALPACA,
    "messages": {"messages": TURNS[1:3]},
    "completion": {"prompt": "what?", "completion": "that"},
}


@pytest.mark.parametrize("form", FORMS)
def test_records_of_every_form_are_read(tmp_path, form):
    found = records(tmp_path, *[FORMS[form]] * 20, validation_fraction=0.1, test_fraction=0.25)
    assert [len(part) for part in found] == [13, 2, 5]
    messages = found.train[0].messages
    assert [message["role"] for message in messages] == ["user", "assistant"]
    if form == "alpaca":
        assert messages[0]["content"] == "Add.\n\n### Input:\n1 2"
        asked = records(tmp_path, *[ALPACA] * 20, style="chatml").train[0].messages[0]["content"]
        assert asked == "Add.\n1 2"


def test_each_record_is_in_one_part_and_the_seed_says_in_which(tmp_path):
    found = records(tmp_path, *({"prompt": str(i), "completion": "x"} for i in range(40)), test_fraction=0.2)
    parts = [[one.messages[0]["content"] for one in part] for part in found]
    assert sorted(itertools.chain(*parts), key=int) == [str(i) for i in range(40)]
    assert parts == [[one.messages[0]["content"] for one in part] for part in records(
        tmp_path, *({"prompt": str(i), "completion": "x"} for i in range(40)), test_fraction=0.2)]  # fmt: skip


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"question": "x", "answer": "y"}, "record 1: found the fields question, answer, expected messages, or instr"),
        ({"instruction": "x", "output": " "}, "record 1: found 'an empty answer', expected a text"),
        ({"instruction": "x", "output": 3}, "record 1: output: found 3, expected a text"),
        ({"messages": TURNS[1:2]}, r"record 1: messages: found \['user'\], expected an assistant's"),
        ({"messages": [{"role": "user"}]}, r"record 1: message 0: found .* expected .*role"),
        ({"messages": "hello"}, "record 1: messages: found 'hello', expected a list"),
    ],
)
def test_a_record_that_is_none_is_refused_by_its_place(tmp_path, record, message):
    with pytest.raises(ValueError, match=message):
        records(tmp_path, ALPACA, record)


def test_too_few_for_a_part_are_refused(tmp_path):
    with pytest.raises(ValueError, match="validation conversations: found 0, expected one or more"):
        records(tmp_path, *[ALPACA] * 5)


def test_a_tokenizer_without_an_end_or_an_unknown_style_is_refused():
    from jaxgpt.tokenizers import CharTokenizer

    with pytest.raises(ValueError, match="expected one with an end-of-text token"):
        styled(CharTokenizer("abc"), None)
    with pytest.raises(ValueError, match=r"data.style: found 'alpacas', expected one of .*nearest: alpaca"):
        styled(TOKENIZER, "alpacas")
