"""Attention weights: a formula in float64, what masks leave of them, and their pictures."""

from dataclasses import replace
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiers import few
from tiny import SCHEMES, TINY, draw, draw_tokens

from jaxgpt import Model, bert, gpt, inspection, pictures, seq2seq
from jaxgpt.decoder import decoder
from jaxgpt.encoder import encoder
from jaxgpt.inspection import AttentionMap, attention_maps, attention_weights, token_texts
from jaxgpt.pictures import draw_attention
from jaxgpt.tokenizers import BPETokenizer, CharTokenizer, wordpiece

weights_of = jax.jit(attention_weights, static_argnames="cfg")
TEXT = "The quick brown fox jumps over the lazy dog. Über schöne Äpfel springt er."
BPE = BPETokenizer.train([TEXT] * 9, 300)
WORDPIECE = wordpiece.train([TEXT] * 9, 120, cased=True)
DECODER = replace(TINY, n_layers=2, vocab_size=300, context_length=90)
ENCODER = replace(DECODER, architecture="encoder", n_segments=2, embedding_norm=True, norm_position="post")
BOTH = replace(DECODER, architecture="encoder-decoder", n_encoder_layers=3, position="sinusoidal")


def softmax(scores, seen=True):
    scores = np.where(seen, scores, -np.inf)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)


def projected(params, name, x, heads):
    """(heads, time, width) in float64, each key head repeated for the queries that share it."""
    kernel, bias = (np.asarray(params[name][part], np.float64) for part in ("kernel", "bias"))
    out = np.einsum("td,dhk->htk", x, kernel) + bias[:, None]
    return out.repeat(heads // len(out), 0)


def normed(params, x, epsilon):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * params["scale"] + params["bias"]


def first_layer(params, tokens, cfg):
    """Learned positions, pre-norm, one layer: what goes into its attention, and the layer."""
    table = {name: np.asarray(array, np.float64) for name, array in params["embedding"].items()}
    x = table["token"][np.asarray(tokens)] + table["position"][: len(tokens)]
    layer = jax.tree.map(lambda leaf: np.asarray(leaf[0], np.float64), params["layers"])
    return normed(layer["attention_norm"], x, cfg.norm_epsilon), layer["attention"]


@pytest.mark.parametrize("architecture", ["decoder", "encoder"])
def test_one_layer_by_the_formula(architecture):
    cfg = replace(TINY, n_layers=1, architecture=architecture)
    params = draw((gpt if architecture == "decoder" else bert).declare(cfg))
    tokens = draw_tokens(cfg, 2, 7)
    found = weights_of(params, tokens, cfg)
    assert found.encoder is None
    assert found.cross is None
    assert found.own.shape == (1, 2, 6, 7, 7)
    for row in range(2):
        x, layer = first_layer(params, tokens[row], cfg)
        query, key = projected(layer, "query", x, 6), projected(layer, "key", x, 6)
        seen = np.tri(7, dtype=bool) if architecture == "decoder" else True
        wanted = softmax(np.einsum("htk,hsk->hts", query, key) / 2, seen)  # head_dim is 4
        np.testing.assert_allclose(found.own[0, row], wanted, atol=2e-6)


def test_cross_attention_by_the_formula():
    """The target's states, after its self-attention, against the encoder's output; the source's padding unseen."""
    cfg = replace(TINY, n_layers=1, n_encoder_layers=2, architecture="encoder-decoder")
    params = draw(seq2seq.declare(cfg))
    source, target = draw_tokens(cfg, 1, 6), draw_tokens(cfg, 1, 5, seed=2)
    mask = jnp.arange(6)[None] < 4
    found = weights_of(params, source, cfg, mask=mask, target=target)
    assert {found.own.shape, found.encoder.shape, found.cross.shape} == {
        (1, 1, 6, 5, 5),
        (2, 1, 6, 6, 6),
        (1, 1, 6, 5, 6),
    }

    memory = np.asarray(seq2seq.encode(params, source, cfg, source_mask=mask), np.float64)[0]
    layer = jax.tree.map(lambda leaf: np.asarray(leaf[0], np.float64), params["decoder"]["layers"])
    table = {name: np.asarray(array, np.float64) for name, array in params["embedding"].items()}
    x = table["token"][np.asarray(target[0])] + table["position"][:5]
    y = normed(layer["attention_norm"], x, cfg.norm_epsilon)
    query, key, value = (projected(layer["attention"], name, y, 6) for name in ("query", "key", "value"))
    own = softmax(np.einsum("htk,hsk->hts", query, key) / 2, np.tri(5, dtype=bool))
    np.testing.assert_allclose(found.own[0, 0], own, atol=2e-6)
    out = layer["attention"]["output"]
    x = x + np.einsum("hts,hsk,hkd->td", own, value, out["kernel"]) + out["bias"]
    query = projected(layer["cross"], "query", normed(layer["cross_norm"], x, cfg.norm_epsilon), 6)
    key = projected(layer["cross"], "key", memory, 6)
    cross = softmax(np.einsum("htk,hsk->hts", query, key) / 2, np.arange(6) < 4)
    np.testing.assert_allclose(found.cross[0, 0], cross, atol=5e-6)


@pytest.mark.parametrize("scheme", few(["window", *SCHEMES], 2))
@pytest.mark.parametrize("architecture", ["decoder", "encoder", "encoder-decoder"])
def test_rows_sum_to_one_over_what_they_may_see(architecture, scheme):
    cfg = replace(SCHEMES.get(scheme, SCHEMES["rotary"]), architecture=architecture, n_layers=2)
    cfg = replace(cfg, window=3) if scheme == "window" else cfg
    params = draw({"decoder": gpt, "encoder": bert, "encoder-decoder": seq2seq}[architecture].declare(cfg))
    tokens, mask = draw_tokens(cfg, 2, 9), jnp.arange(9)[None] < jnp.array([[9], [5]])
    two = architecture == "encoder-decoder"
    real = mask[:, :7]
    target = {"target": draw_tokens(cfg, 2, 7, seed=3), "target_mask": real} if two else {}
    found = weights_of(params, tokens, cfg, mask=mask, **target)

    def check(weights, queries, keys, causal):
        assert weights.dtype == jnp.float32
        sums = np.broadcast_to(np.asarray(queries)[:, None], weights.shape[:-1])
        np.testing.assert_allclose(np.where(sums, weights.sum(-1), 1), 1, atol=1e-5)
        hidden = np.broadcast_to(~np.asarray(keys)[:, None, None], weights.shape)
        assert (np.asarray(weights)[hidden] == 0).all()
        if causal:
            assert (np.triu(weights, 1) == 0).all()
        if scheme == "window" and keys is queries:
            distance = np.abs(np.subtract.outer(np.arange(keys.shape[1]), np.arange(keys.shape[1])))
            assert (np.asarray(weights)[..., distance >= 3] == 0).all()
            assert (np.asarray(weights)[..., distance == 2].max() > 0).all()

    own = real if two else mask
    check(found.own, own, own, architecture != "encoder")
    if architecture == "encoder":
        assert np.triu(found.own, 1).max() > 0.01
    if two:
        check(found.encoder, mask, mask, False)
        check(found.cross, real, mask, False)


@pytest.mark.parametrize("scan", [False, True])
def test_asking_for_weights_changes_no_state(scan):
    cfg = replace(TINY, scan_layers=scan, n_layers=2)
    tokens, params = draw_tokens(cfg, 2, 9), draw(gpt.declare(cfg))
    for run in (decoder, encoder):
        plain, seen = run(params, tokens, cfg), run(params, tokens, cfg, weights=True)
        assert plain.weights is None
        # The loop over layers is another program than their list.
        np.testing.assert_allclose(seen.x, plain.x, atol=2e-5 if scan else 0)


def test_an_argument_that_an_architecture_does_not_read_is_refused():
    tokens = draw_tokens(TINY, 1, 4)
    one, two = replace(TINY, n_layers=1), replace(TINY, n_layers=1, architecture="encoder-decoder")
    for name, array in (("target", tokens), ("target_mask", tokens > 0), ("segments", tokens)):
        with pytest.raises(ValueError, match=f"{name}: found an array, expected None for the architecture decoder"):
            attention_weights(draw(gpt.declare(one)), tokens, one, **{name: array})
    params = draw(seq2seq.declare(two))
    with pytest.raises(ValueError, match="target: found None, expected the target's tokens"):
        attention_weights(params, tokens, two)
    for given in ({"target": tokens + 99}, {"target": draw_tokens(TINY, 1, 20)}):
        with pytest.raises(ValueError, match=r"^target: found"):
            attention_weights(params, tokens, two, **given)
    with pytest.raises(ValueError, match=r"^tokens: found"):
        attention_weights(params, tokens + 99, two, target=tokens)


def test_segments_reach_the_encoder():
    params, tokens = draw(bert.declare(ENCODER)), draw_tokens(ENCODER, 1, 6)
    one, other = (weights_of(params, tokens, ENCODER, segments=jnp.full((1, 6), of)).own for of in (0, 1))
    assert jnp.abs(one - other).max() > 1e-3


def test_the_maps_of_a_text_are_its_weights_without_padding():
    model = Model(DECODER, draw(gpt.declare(DECODER)), BPE)
    ids = BPE.encode(TEXT[:20])
    found = attention_maps(model, TEXT[:20])
    assert list(found) == ["self"]
    wanted = weights_of(model.params, jnp.array([ids]), DECODER).own[:, 0]
    np.testing.assert_allclose(found["self"].weights, wanted, atol=2e-5)
    assert found["self"].queries == found["self"].keys == [BPE.decode([token]) for token in ids]


def test_an_encoder_reads_its_frame_and_its_blanks():
    model = Model(ENCODER, draw(bert.declare(ENCODER)), WORDPIECE)
    seen = attention_maps(model, "The [MASK] fox [CLS]")["self"]
    assert seen.keys[:4] == ["[CLS]", "The", "[MASK]", "fox"]
    assert seen.keys.count("[CLS]") == seen.keys.count("[SEP]") == 1
    assert seen.keys[-1] == "[SEP]"
    ids = [WORDPIECE.cls, *WORDPIECE.encode("The [MASK] fox [CLS]", allowed_special={"[MASK]"}), WORDPIECE.sep]
    np.testing.assert_allclose(seen.weights, weights_of(model.params, jnp.array([ids]), ENCODER).own[:, 0], atol=2e-5)


def test_a_source_and_a_target_have_three_maps(monkeypatch):
    model = Model(BOTH, draw(seq2seq.declare(BOTH)), BPE)
    end = BPE.end_of_text
    source, target = [*BPE.encode("the dog"), end], [end, *BPE.encode("Über Äpfel")]
    found = attention_maps(model, "the dog", "Über Äpfel")
    assert list(found) == ["encoder", "decoder", "cross"]
    wanted = weights_of(model.params, jnp.array([source]), BOTH, target=jnp.array([target]))
    for name, weights in (("encoder", wanted.encoder), ("decoder", wanted.own), ("cross", wanted.cross)):
        np.testing.assert_allclose(found[name].weights, weights[:, 0], atol=2e-5)
    assert (len(found["cross"].queries), len(found["cross"].keys)) == (len(target), len(source))
    assert found["cross"].queries[0] == found["cross"].keys[-1] == "<|endoftext|>"
    assert attention_maps(model, "the dog", "")["cross"].queries == ["<|endoftext|>"]

    monkeypatch.setattr(inspection, "translate", lambda model, text, beam: {("the dog", 1): "Äpfel" * 90}[text, beam])
    greedy = attention_maps(model, "the dog")["cross"].queries
    assert len(greedy) == BOTH.context_length
    assert greedy == token_texts(BPE, [end, *BPE.encode("Äpfel" * 90)][: BOTH.context_length])


@pytest.mark.parametrize(
    ("cfg", "tokenizer", "text", "target", "message"),
    [
        (DECODER, BPE, "a", "b", "target: found 'b', expected None, as only an encoder-decoder reads one"),
        (DECODER, BPE, "", None, "text: found 'no tokens', expected at least one"),
        (DECODER, BPE, "?" * 91, None, "text: found 91 tokens, expected at most 90"),
        (
            ENCODER,
            WORDPIECE,
            "er " * 89,
            None,
            "text: found 91 tokens, expected at most 90, 2 that begin and end it among them",
        ),
        (BOTH, BPE, "?" * 90, "a", "text: found 91 tokens, expected at most 90, the end's among them"),
        (BOTH, BPE, "a", "?" * 90, "target: found 91 tokens, expected at most 90, the start's among them"),
        (
            BOTH,
            CharTokenizer.train(["abc"]),
            "a",
            "b",
            r"generation.end_tokens: found \(\), expected one, such as the end-of-text token",
        ),
    ],
)
def test_what_can_not_be_looked_at_is_refused(cfg, tokenizer, text, target, message):
    with pytest.raises(ValueError, match=message):
        attention_maps(Model(cfg, {}, tokenizer), text, target)


def test_tokens_of_one_character_say_so():
    bytes_only = BPETokenizer.train(["a"], 257)
    assert token_texts(bytes_only, bytes_only.encode("aä€")) == ["a", "ä(1/2)", "ä(2/2)", "€(1/3)", "€(2/3)", "€(3/3)"]
    lone = bytes_only.encode("ä")[:1]
    assert token_texts(bytes_only, [*lone, *bytes_only.encode("ab")]) == ["\ufffd", "a", "b"]
    assert token_texts(bytes_only, bytes_only.encode("🙂") + lone) == [*(f"🙂({i}/4)" for i in range(1, 5)), "\ufffd"]
    assert token_texts(bytes_only, []) == []


SEEN = AttentionMap(
    np.random.default_rng(0).dirichlet(np.ones(5), (2, 4, 3)).astype(np.float32),
    ["a", "$x", " und\n", "$", "_"][:3],
    ["Donaudampfschifffahrtsgesellschaft", "ö", "##ing", " ", "[SEP]"],
)


def drawn(monkeypatch, tmp_path, seen=SEEN, **options):
    """The matplotlib figure, and the picture's bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figures, write = [], FigureCanvasAgg.print_png

    def watched(canvas, path):
        figures.append(canvas.figure)
        write(canvas, path)

    with monkeypatch.context() as patch:
        patch.setattr(FigureCanvasAgg, "print_png", watched)
        draw_attention(seen, tmp_path / "seen.png", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["seen.png"]
    return figures[0], (tmp_path / "seen.png").read_bytes()


def shown(figure):
    """{panel: its numbers}"""
    return {axes.get_title(): np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images}


def test_a_panel_a_head_of_the_chosen_layer(monkeypatch, tmp_path):
    figure, data = drawn(monkeypatch, tmp_path, title="cross attention")
    assert data.startswith(b"\x89PNG")
    assert figure.get_suptitle() == "cross attention, layer 1"
    panels = shown(figure)
    assert list(panels) == ["head 0", "head 1", "head 2", "head 3"]
    for head, found in enumerate(panels.values()):
        np.testing.assert_array_equal(found, SEEN.weights[1, head])
    assert len({axes.images[0].norm for axes in figure.axes if axes.images}) == 1  # one colour scale

    chosen = shown(drawn(monkeypatch, tmp_path, layer=0, heads=[2, 1])[0])
    assert list(chosen) == ["head 2", "head 1"]
    np.testing.assert_array_equal(chosen["head 2"], SEEN.weights[0, 2])
    mean = shown(drawn(monkeypatch, tmp_path, layer=-2, heads="mean")[0])
    np.testing.assert_allclose(mean.pop("mean of 4 heads"), SEEN.weights[0].mean(0))
    assert not mean


def test_small_shares_show_beside_the_first_row_of_a_causal_model(monkeypatch, tmp_path):
    causal = AttentionMap(np.tril(np.full((1, 2, 3, 3), 0.01, np.float32)), SEEN.queries, SEEN.queries)
    causal.weights[0, :, 0, 0] = 1
    for seen, shade in ((causal, 0.1), (SEEN, 0.01 / SEEN.weights[1].max())):
        image = drawn(monkeypatch, tmp_path, seen)[0].axes[0].images[0]
        assert image.norm(0.01) == pytest.approx(shade)


def test_labels_are_the_tokens_and_stand_once(monkeypatch, tmp_path):
    figure, _ = drawn(monkeypatch, tmp_path)
    down = [[label.get_text() for label in axes.get_yticklabels()] for axes in figure.axes[:4]]
    across = [[label.get_text() for label in axes.get_xticklabels()] for axes in figure.axes[:4]]
    queries, keys = ["a", "$x", "·und↵"], ["Donaudampfschifff…", "ö", "##ing", "·", "[SEP]"]
    assert down == [queries, [], queries, []]
    assert across == [[], [], keys, keys]
    assert not any(label.get_parse_math() for label in figure.axes[0].get_yticklabels())


@pytest.mark.parametrize("tokens", few([300, 1]))
def test_a_picture_keeps_its_size_and_its_labels_apart(monkeypatch, tmp_path, tokens):
    seen = AttentionMap(np.full((1, 12, tokens, tokens), 1 / tokens, np.float32), ["ab"] * tokens, ["ab"] * tokens)
    for heads, largest in ((range(12), 21), ([0], 11)):
        figure, _ = drawn(monkeypatch, tmp_path, seen, heads=heads, title="a long title " * 5)
        assert max(figure.get_size_inches()) < largest
        figure.draw_without_rendering()
        assert figure.axes[0].get_yticklabels()[0].get_fontsize() > 6
        title = figure._suptitle.get_window_extent()
        assert title.x0 > 0
        assert title.x1 < figure.bbox.width
        boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
        assert len(boxes) == 1 or len(boxes) > 20
        assert all(above.y0 >= below.y1 - 1 for above, below in pairwise(boxes))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 2}, r"layer: found 2, expected -2\.\.1"),
        ({"layer": -3}, "layer: found -3"),
        ({"heads": [0, 4]}, r"head: found 4, expected 0\.\.3"),
        ({"heads": [-1]}, "head: found -1"),
        ({"heads": []}, r"heads: found \[\], expected at least one"),
        ({"path": "seen.jpg"}, "path: found 'seen.jpg', expected a name that ends in .png"),
    ],
)
def test_a_picture_that_can_not_be_drawn_is_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        draw_attention(SEEN, **{"path": tmp_path / "seen.png"} | options)
    assert not list(tmp_path.iterdir())


def test_panels_fill_their_rows_where_they_can():
    wanted = {1: 1, 2: 2, 3: 3, 4: 2, 5: 3, 6: 3, 8: 4, 12: 4, 13: 4, 16: 4, 20: 5}
    assert {panels: pictures._columns(panels) for panels in wanted} == wanted
