"""How well a model with a head for it tells the classes of texts."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from jaxgpt.checks import require
from jaxgpt.classification import classify_texts
from jaxgpt.model import Model
from jaxgpt.rows import Text, framed


class ClassMeasures(NamedTuple):
    """Of one class."""

    precision: float
    """Share of the texts taken for it that are of it."""
    recall: float
    """Share of the texts of it that are taken for it."""
    f1: float
    """Their harmonic mean."""
    texts: int
    """Of it."""


class ClassScores(NamedTuple):
    """Of labelled texts."""

    accuracy: float
    """Share of the texts whose likeliest class is their own."""
    macro_f1: float
    """The mean of the classes' F1, which a rare class counts in as much as another."""
    majority: float
    """The accuracy of taking every text for one of the most common class."""
    records: int
    cut: int
    """Texts that lost their end, as the model reads no more."""
    classes: dict[str, ClassMeasures]
    """Of each class that a text is of or is taken for."""


def class_scores(
    model: Model, texts: Sequence[Text], labels: Sequence[str], *, batch_size: int = 64, progress: bool = False
) -> ClassScores:
    """The classes that the model takes the texts, or pairs of texts, for, held against their labels.

    A text that is longer than the model reads is cut, of a pair the longer is. progress: show a bar, on a terminal.
    Raises ValueError, before any work, where there is no text, a label that is no class of the model, and as
    `classify_texts` does; ImportError without the `classification` extra.
    """
    try:
        from sklearn.metrics import precision_recall_fscore_support  # an extra, and slow to import
    except ImportError as error:
        raise ImportError("to measure classes needs scikit-learn: pip install 'jaxgpt[classification]'") from error
    names, most = model.settings.labels, model.config.context_length
    require(len(names) > 1, "model.labels", names, "the names of two classes or more")
    require(len(texts) > 0, "texts", "none", "at least one")
    for i, label in enumerate(labels):
        require(label in names, f"label of text {i}", label, f"one of the model's classes: {', '.join(names)}")
    options = {"max_tokens": most, "batch_size": batch_size, "progress": progress}
    found = classify_texts(model, list(texts), **options).argmax(1)
    taken = [names[i] for i in found]
    seen = [name for name in names if name in {*labels, *taken}]
    measures = precision_recall_fscore_support(list(labels), taken, labels=seen, zero_division=0.0)
    of_each = [ClassMeasures(*row) for row in zip(*(x.tolist() for x in measures), strict=True)]
    return ClassScores(
        accuracy=sum(a == b for a, b in zip(labels, taken, strict=True)) / len(taken),
        macro_f1=sum(one.f1 for one in of_each) / len(seen),
        majority=Counter(labels).most_common(1)[0][1] / len(taken),
        records=len(taken),
        cut=len(framed(model.tokenizer, list(texts), most, most)[2]),
        classes=dict(zip(seen, of_each, strict=True)),
    )
