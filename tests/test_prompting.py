"""Few-shot prompts: written by the template, and examples drawn evenly over the labels."""

from collections import Counter

import pytest

from jaxgpt.prompting import choose_shots, few_shot

TEMPLATE = "Review: {text}\nSentiment: {label}"
EXAMPLES = [{"text": f"text {i}", "label": ("bad", "good", "so-so")[min(i % 4, 2)]} for i in range(40)]


def test_examples_are_written_whole_and_the_query_up_to_its_label():
    shots = [{"text": "fine", "label": "good"}, {"text": "dull {text}", "label": "bad"}]
    query = {"text": "who {label} knows", "unused": "x"}
    assert few_shot(TEMPLATE, query, shots) == (
        "Review: fine\nSentiment: good\n\nReview: dull {text}\nSentiment: bad\n\nReview: who {label} knows\nSentiment: "
    )
    assert few_shot(TEMPLATE, {**query, "label": "bad"}) == "Review: who {label} knows\nSentiment: "
    assert few_shot(
        "{{{q}}} {a}: {label}.", {"q": "1", "a": "2"}, [{"q": "3", "a": "4", "label": "5"}], separator=""
    ) == ("{3} 4: 5.{1} 2: ")
    assert few_shot("{label}", {}) == ""


@pytest.mark.parametrize("k", [0, 1, 3, 4, 7, 24])
def test_shots_are_drawn_evenly_by_the_seed(k):
    shots = choose_shots(EXAMPLES, k, seed=3)
    assert shots == choose_shots(EXAMPLES, k, seed=3)
    counts = Counter(shot["label"] for shot in shots)
    assert sum(counts.values()) == k == len({shot["text"] for shot in shots})
    assert all(counts[label] in (k // 3, -(-k // 3)) for label in ("bad", "good", "so-so"))
    assert all(shot in EXAMPLES for shot in shots)


def test_another_seed_draws_other_shots_in_another_order():
    drawn = [choose_shots(EXAMPLES, 6, seed=seed) for seed in range(20)]
    assert len({tuple(shot["text"] for shot in shots) for shots in drawn}) == 20
    assert len({tuple(shot["label"] for shot in shots) for shots in drawn}) > 10
    assert (
        len(
            {
                shots[0]["label"]
                for shots in ([choose_shots(EXAMPLES, 1, seed=seed)] for seed in range(20))
                for shots in shots
            }
        )
        == 3
    )


@pytest.mark.parametrize(
    ("template", "query", "shots", "message"),
    [
        ("{text}", {}, [], "template: found '{text}', expected {label} once, its last field"),
        ("{label} {text}", {}, [], "template: found '{label} {text}', expected {label} once, its last field"),
        ("{label} {label}", {}, [], "template: found '{label} {label}', expected {label} once, its last field"),
        ("{text.x}{label}", {}, [], "template: found '{text.x}{label}', expected plain fields in it, such as {text}"),
        ("{}{label}", {}, [], "template: found '{}{label}', expected plain fields in it, such as {text}"),
        ("{text!r}{label}", {}, [], "template: found '{text!r}{label}', expected plain fields in it, such as {text}"),
        (TEMPLATE, {"label": "x"}, [], "query: text: found None, expected a string"),
        (TEMPLATE, {"text": "x"}, [EXAMPLES[0], {"text": "y"}], "shot 1: label: found None, expected a string"),
        (TEMPLATE, {"text": "x"}, [{"text": "y", "label": 1}], "shot 0: label: found 1, expected a string"),
    ],
)
def test_templates_and_examples_that_do_not_fit_are_refused(template, query, shots, message):
    with pytest.raises(ValueError, match="found") as error:
        few_shot(template, query, shots)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("examples", "k", "message"),
    [
        (EXAMPLES, -1, "k: found -1, expected an integer of at least 0"),
        ([], 1, "examples: found 'none', expected 1 to choose"),
        ([*EXAMPLES, {"text": "x"}], 1, "example 40: label: found None, expected a string"),
        (EXAMPLES, 33, "examples of 'bad': found 10, expected at least 11, for 33 shots of 3 labels"),
    ],
)
def test_shots_that_can_not_be_chosen_are_refused(examples, k, message):
    with pytest.raises(ValueError, match="found") as error:
        choose_shots(examples, k)
    assert str(error.value) == message
