from hypothesis import given
from hypothesis import strategies as st

from jaxgpt.tokenizers.parts import split, spoil

MARK = "\ue000"
TOKENS = ["<s>", "</s>", "<s><s>", "s>s<"]


def test_text_and_tokens_by_turns():
    assert split("a<s>b</s>", TOKENS) == ["a", "<s>", "b", "</s>", ""]
    assert split("a", TOKENS) == ["a"]
    assert split("", TOKENS) == [""]
    assert split("a<s>", []) == ["a<s>"]


def test_the_longer_of_two_tokens_is_taken():
    assert split("<s><s><s>", TOKENS) == ["", "<s><s>", "", "<s>", ""]
    assert split("<|a|>|", ["<|a|>", "<|a|>|"]) == ["", "<|a|>|", ""]


@given(st.lists(st.sampled_from([*TOKENS, "<", "s", ">", "/", "a", "\n"])).map("".join))
def test_a_spoilt_text_holds_no_token_and_is_the_text_but_for_marks(text):
    spoilt = spoil(text, TOKENS, MARK)
    assert split(spoilt, TOKENS) == [spoilt]
    assert spoilt.replace(MARK, "") == text


def test_a_text_without_tokens_is_left_alone():
    assert spoil("a < s >\n", TOKENS, MARK) == "a < s >\n"
    assert spoil("<s>", [], MARK) == "<s>"
