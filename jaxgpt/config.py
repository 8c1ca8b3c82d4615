"""The architecture as data: `ModelConfig`, and the published models as functions of their size."""

from dataclasses import dataclass, fields, replace
from typing import Literal

from jaxgpt.checks import check_types, require


@dataclass(frozen=True)
class RopeScaling:
    """How a rotary model reads texts longer than those it was first trained on. Formulas: `rotary.frequencies`.

    Frozen and hashable; a field that its kind does not read is refused.
    """

    kind: Literal["linear", "llama3", "longrope", "yarn"]
    """linear: positions divided; llama3 and yarn: only long wavelengths are, with a ramp; longrope: each by its own."""
    factor: float | None = None
    """How many times longer texts become (longrope: None)."""
    original_length: int | None = None
    """Length of the first training's texts, in tokens (linear: None)."""
    low_frequency_factor: float | None = None
    """Wavelengths above original_length / this are stretched whole. Only for llama3."""
    high_frequency_factor: float | None = None
    """Wavelengths below original_length / this stay. Only for llama3."""
    beta_fast: float | None = None
    """Turns within original_length from which on a wavelength stays. Only for yarn."""
    beta_slow: float | None = None
    """Turns up to which it is stretched whole. Only for yarn."""
    truncate: bool | None = None
    """Round the ends of the ramp outwards to whole pairs. Only for yarn."""
    short: tuple[float, ...] | None = None
    """What each pair's wavelength is stretched by in a text of up to original_length tokens. Only for longrope."""
    long: tuple[float, ...] | None = None
    """The same in a longer text. Only for longrope."""
    magnitude: float | None = None
    """Multiplies cosine and sine. Only for longrope and yarn."""

    def __post_init__(self):
        check_types(self, "model.rope_scaling")
        needed = {
            "linear": ("factor",),
            "llama3": ("factor", "original_length", "low_frequency_factor", "high_frequency_factor"),
            "yarn": ("factor", "original_length", "beta_fast", "beta_slow", "truncate", "magnitude"),
            "longrope": ("original_length", "short", "long", "magnitude"),
        }[self.kind]
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            expected = f"{'a value' if field.name in needed else 'None'}, as kind={self.kind!r}"
            require((value is not None) == (field.name in needed), f"model.rope_scaling.{field.name}", value, expected)
            for number in value if isinstance(value, tuple) else (value,):
                good = number is None or isinstance(number, bool) or number > 0
                require(good, f"model.rope_scaling.{field.name}", value, "numbers above 0")


@dataclass(frozen=True)
class ModelConfig:
    """What a model is. Frozen and hashable, so that it is a static argument of `jax.jit`.

    Fields that follow from others are None until given; the properties below derive them where they are read, so
    a changed `d_model` needs nothing else. A value that no function would read is refused, never ignored.
    """

    architecture: Literal["decoder", "encoder", "encoder-decoder"] = "decoder"
    """Which stacks there are: `gpt`, `bert` and `seq2seq` are their functions."""
    vocab_size: int = 50257
    """Number of token ids."""
    context_length: int = 1024
    """Longest sequence, in tokens."""
    d_model: int = 768
    """Width of the residual stream."""
    n_layers: int = 12
    """Number of blocks; of an encoder-decoder, those of the decoder."""
    n_encoder_layers: int | None = None
    """Number of blocks of an encoder-decoder's encoder (None: n_layers)."""
    n_heads: int = 12
    """Number of query heads."""
    n_kv_heads: int | None = None
    """Number of key/value heads, a divisor of n_heads (None: n_heads; 1: multi-query attention)."""
    head_dim: int | None = None
    """Width of a head (None: d_model / n_heads)."""
    d_ff: int | None = None
    """Hidden width of the MLP (None: 4 d_model; gated: 8/3 d_model, up to a multiple of 256)."""
    norm: Literal["layer", "rms"] = "layer"
    """Layer norm or RMS norm."""
    norm_position: Literal["pre", "post"] = "pre"
    """Normalise each sublayer's input (GPT-2 on), or the sum after it (GPT-1, BERT, 2017)."""
    norm_epsilon: float = 1e-5
    """Added to the variance (or mean square) under the root."""
    position: Literal["learned", "sinusoidal", "sinusoidal_split", "rotary", "relative"] = "learned"
    """How a token knows its place; sinusoidal_split has all sines before all cosines (Marian)."""
    position_offset: int = 0
    """Rows of the learned table before position 0's (RoBERTa: 2)."""
    rope_theta: float | None = None
    """Base of the rotary wavelengths (None: 10000). Only for position = rotary."""
    rope_width: int | None = None
    """Leading dimensions of a head that are rotated, an even number (None: all). Only for position = rotary."""
    rope_scaling: RopeScaling | None = None
    """How the wavelengths are stretched for long texts (None: not). Only for position = rotary."""
    relative_buckets: int | None = None
    """Number of distance buckets (None: 32). Only for position = relative."""
    relative_max_distance: int | None = None
    """Distance from which all share the last bucket (None: 128). Only for position = relative."""
    window: int | None = None
    """Sliding window: a query sees itself and the window - 1 tokens before it and, in an encoder, after it (None: all).
    Cross-attention sees all of the source."""
    n_segments: int = 0
    """Rows of a table of segment embeddings: 2 for BERT's pairs of texts, 0 for none. Only in an encoder."""
    embedding_norm: bool = False
    """Normalise the sum of the embeddings (BERT)."""
    embedding_scale: bool = False
    """Multiply token embeddings by sqrt(d_model) (2017)."""
    activation: Literal["gelu", "gelu_tanh", "relu", "silu"] = "gelu_tanh"
    """Nonlinearity of the MLP."""
    gated: bool = False
    """Multiply the MLP's hidden layer by an activated gate (SwiGLU and its kin)."""
    bias: bool = True
    """Bias in linear layers and in layer norm."""
    attention_bias: Literal["none", "inputs", "all"] | None = None
    """Biases of attention: inputs are those of queries, keys and values (None: all or none, as `bias` says)."""
    mlp_bias: bool | None = None
    """Bias in the MLP (None: as `bias` says)."""
    qk_norm: bool = False
    """RMS norm of each head's query and key, before they are rotated (Qwen3)."""
    attention_scale: float | None = None
    """What scores are multiplied by (None: 1 / sqrt(head_dim); T5: 1)."""
    tie_embeddings: bool = True
    """The head is the token embedding, transposed. A model without a language-model head has nothing to tie."""
    head_bias: bool = False
    """Bias of the logits (Marian). A masked-LM head has one anyway. Not in an encoder, nor with head = sequence."""
    logit_scale: float | None = None
    """What states are multiplied by before the head (None: 1; T5: 1 / sqrt(d_model)). As head_bias."""
    head: Literal["lm", "pretraining", "sequence", "token", "pooled", "none"] = "lm"
    """What the states are read by: lm gives tokens, pretraining also tells whether the second text follows the first,
    sequence and token classify, pooled makes a vector. A decoder has lm or sequence, an encoder-decoder lm."""
    pooler_activation: Literal["tanh", "relu"] | None = None
    """Nonlinearity of a text's vector (None: tanh; DistilBERT: relu). Only for head = pretraining, sequence, pooled."""
    n_classes: int | None = None
    """Number of classes. Only for head = sequence or token."""
    dropout: float = 0.0
    """Probability of zeroing an activation; acts only where a key is passed."""
    label_smoothing: float = 0.0
    """Share of each target's probability that the loss spreads over the whole vocabulary, or over all classes."""
    init_std: float = 0.02
    """Standard deviation of the initial weights; in pre-norm models residual outputs get it / sqrt(2 n_layers)."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """What activations are computed in. Parameters, norms, softmax and loss stay float32."""
    attention: Literal["auto", "xla", "cudnn", "splash"] = "auto"
    """How attention is computed; auto takes what the device, the dtype and the mask allow."""
    scan_layers: bool = False
    """Run the blocks by `lax.scan`: flat compile time for deep models; unrolled steps are a fifth faster on a CPU."""
    remat: Literal["none", "dots", "full"] = "none"
    """What the backward pass recomputes: nothing, all but matrix products, or whole blocks."""

    def __post_init__(self):
        def check(condition, field, found, expected):
            require(condition, f"model.{field}", found, expected)

        check_types(self, "model")
        for field in ("vocab_size", "context_length", "d_model", "n_layers", "n_heads"):
            check(getattr(self, field) >= 1, field, getattr(self, field), "a positive integer")
        optional = ("n_encoder_layers", "n_kv_heads", "head_dim", "d_ff", "window", "n_classes", "rope_width")
        for field in (*optional, "relative_buckets", "relative_max_distance"):
            value = getattr(self, field)
            check(value is None or value >= 1, field, value, "a positive integer or None")
        for field in ("n_segments", "position_offset"):
            check(getattr(self, field) >= 0, field, getattr(self, field), "an integer of at least 0")
        for field in ("attention_scale", "logit_scale", "rope_theta"):
            value = getattr(self, field)
            check(value is None or value > 0, field, value, "a number above 0")
        for field, architecture in (("n_encoder_layers", "encoder-decoder"), ("n_segments", "encoder")):
            unread = self.architecture != architecture and getattr(self, field)
            check(not unread, field, getattr(self, field), f"nothing, as only architecture={architecture!r} reads it")
        heads = {"decoder": ("lm", "sequence"), "encoder-decoder": ("lm",)}.get(self.architecture, (self.head,))
        check(self.head in heads, "head", self.head, f"{' or '.join(heads)}, as architecture={self.architecture!r}")
        for field in ("head_bias", "logit_scale"):
            reads = self.architecture != "encoder" and self.head == "lm"
            expected = f"nothing, as architecture={self.architecture!r} with head={self.head!r} does not read it"
            check(reads or not getattr(self, field), field, getattr(self, field), expected)
        pools = self.architecture == "encoder" and self.head in ("pretraining", "sequence", "pooled")
        expected = "None, as only an encoder with head='pretraining', 'sequence' or 'pooled' reads it"
        check(pools or self.pooler_activation is None, "pooler_activation", self.pooler_activation, expected)
        classifies = self.head in ("sequence", "token")
        expected = "the number of classes" if classifies else "None, as only head='sequence' or 'token' reads it"
        check(classifies == (self.n_classes is not None), "n_classes", self.n_classes, expected)
        if self.head_dim is None:
            divisors = _divisors(self.d_model)
            expected = f"a divisor of d_model={self.d_model} ({divisors}), or head_dim given"
            check(self.d_model % self.n_heads == 0, "n_heads", self.n_heads, expected)
        divisors = _divisors(self.n_heads)
        expected = f"a divisor of n_heads={self.n_heads} ({divisors})"
        check(self.n_heads % self.kv_heads == 0, "n_kv_heads", self.n_kv_heads, expected)
        for field in ("dropout", "label_smoothing"):
            check(0 <= getattr(self, field) < 1, field, getattr(self, field), "a number in [0, 1)")
        check(self.norm_epsilon > 0, "norm_epsilon", self.norm_epsilon, "a number above 0")
        check(self.init_std >= 0, "init_std", self.init_std, "a number of at least 0")
        if self.position == "rotary":
            expected = "an even width, as position='rotary'"
            check(self.rope_width is not None or self.head_width % 2 == 0, "head_dim", self.head_width, expected)
            expected = f"an even number up to head_dim={self.head_width}"
            even = self.rotary_width % 2 == 0 and self.rotary_width <= self.head_width
            check(even, "rope_width", self.rope_width, expected)
            for field in ("short", "long"):
                factors = getattr(self.rope_scaling, field, None)
                expected = f"{self.rotary_width // 2} numbers, one a pair of rotated dimensions"
                right = factors is None or len(factors) == self.rotary_width // 2
                check(right, f"rope_scaling.{field}", factors, expected)
        if self.position.startswith("sinusoidal"):
            check(self.d_model % 2 == 0, "d_model", self.d_model, f"an even width, as position={self.position!r}")
        unread = self.position != "learned" and self.position_offset != 0
        check(not unread, "position_offset", self.position_offset, "0, as only position='learned' reads it")
        for field, position in (
            ("rope_theta", "rotary"),
            ("rope_width", "rotary"),
            ("rope_scaling", "rotary"),
            ("relative_buckets", "relative"),
            ("relative_max_distance", "relative"),
        ):
            unread = self.position != position and getattr(self, field) is not None
            check(not unread, field, getattr(self, field), f"None, as only position={position!r} reads it")
        if self.position == "relative":
            buckets, distance = self.relative_buckets or 32, self.relative_max_distance or 128
            check(buckets >= 4, "relative_buckets", buckets, "an integer of at least 4")
            expected = f"more than half of relative_buckets={buckets}"
            check(distance > buckets // 2, "relative_max_distance", self.relative_max_distance, expected)

    @property
    def encoder_layers(self) -> int:
        """Blocks of an encoder-decoder's encoder."""
        return self.n_layers if self.n_encoder_layers is None else self.n_encoder_layers

    @property
    def kv_heads(self) -> int:
        return self.n_heads if self.n_kv_heads is None else self.n_kv_heads

    @property
    def head_width(self) -> int:
        return self.d_model // self.n_heads if self.head_dim is None else self.head_dim

    @property
    def rotary_width(self) -> int:
        """Dimensions of a head that are rotated."""
        return self.head_width if self.rope_width is None else self.rope_width

    @property
    def ff_width(self) -> int:
        if self.d_ff is not None:
            return self.d_ff
        # Touvron et al. 2023, section 2.2: two thirds of 4 d_model, so that a gated MLP costs what a plain one does.
        return -(-8 * self.d_model // 3 // 256) * 256 if self.gated else 4 * self.d_model


def _divisors(n: int) -> str:
    return ", ".join(str(d) for d in range(1, n + 1) if n % d == 0)


def _choose(family: str, sizes: dict[str, dict], size: str) -> dict:
    if size not in sizes:
        raise ValueError(f"{family}: found size {size!r}, expected one of {', '.join(sizes)}")
    return sizes[size]


def gpt1(size: str = "117M") -> ModelConfig:
    """Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training": post-norm."""
    sizes = {"117M": {"n_layers": 12, "n_heads": 12, "d_model": 768}}
    base = ModelConfig(vocab_size=40478, context_length=512, norm_position="post", dropout=0.1)
    return replace(base, **_choose("gpt1", sizes, size))


def gpt2(size: str = "124M") -> ModelConfig:
    """Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", table 2."""
    sizes = {
        "124M": {"n_layers": 12, "n_heads": 12, "d_model": 768},
        "355M": {"n_layers": 24, "n_heads": 16, "d_model": 1024},
        "774M": {"n_layers": 36, "n_heads": 20, "d_model": 1280},
        "1558M": {"n_layers": 48, "n_heads": 25, "d_model": 1600},
    }
    return replace(ModelConfig(), **_choose("gpt2", sizes, size))


def gpt3(size: str = "125M") -> ModelConfig:
    """Brown et al. 2020, "Language Models are Few-Shot Learners", table 2.1, the sizes up to 2.7B (dense attention).

    The table gives the 1.3B model 24 heads of width 128: 1.5B parameters. 16 of them fill its d_model and give 1.3B.
    """
    sizes = {
        "125M": {"n_layers": 12, "d_model": 768, "n_heads": 12},
        "350M": {"n_layers": 24, "d_model": 1024, "n_heads": 16},
        "760M": {"n_layers": 24, "d_model": 1536, "n_heads": 16},
        "1.3B": {"n_layers": 24, "d_model": 2048, "n_heads": 16},
        "2.7B": {"n_layers": 32, "d_model": 2560, "n_heads": 32},
    }
    return replace(ModelConfig(context_length=2048), **_choose("gpt3", sizes, size))


def llama(size: str = "7B") -> ModelConfig:
    """Touvron et al. 2023, "Llama 2: Open Foundation and Fine-Tuned Chat Models", table 1 and its model cards."""
    sizes = {
        "7B": {"n_layers": 32, "d_model": 4096, "n_heads": 32, "d_ff": 11008},
        "13B": {"n_layers": 40, "d_model": 5120, "n_heads": 40, "d_ff": 13824},
        "70B": {"n_layers": 80, "d_model": 8192, "n_heads": 64, "n_kv_heads": 8, "d_ff": 28672},
    }
    base = ModelConfig(
        vocab_size=32000,
        context_length=4096,
        norm="rms",
        position="rotary",
        activation="silu",
        gated=True,
        bias=False,
        tie_embeddings=False,
        scan_layers=True,
    )
    return replace(base, **_choose("llama", sizes, size))


def bert(size: str = "base") -> ModelConfig:
    """Devlin et al. 2019, "BERT", section 3, with the heads of its pretraining; small sizes: Turc et al. 2019, table 1.

    vocab_size is that of the uncased vocabulary.
    """
    sizes = {
        "tiny": {"n_layers": 2, "d_model": 128, "n_heads": 2},
        "mini": {"n_layers": 4, "d_model": 256, "n_heads": 4},
        "small": {"n_layers": 4, "d_model": 512, "n_heads": 8},
        "medium": {"n_layers": 8, "d_model": 512, "n_heads": 8},
        "base": {"n_layers": 12, "d_model": 768, "n_heads": 12},
        "large": {"n_layers": 24, "d_model": 1024, "n_heads": 16},
    }
    base = ModelConfig(
        architecture="encoder",
        vocab_size=30522,
        context_length=512,
        norm_position="post",
        norm_epsilon=1e-12,
        n_segments=2,
        embedding_norm=True,
        activation="gelu",
        head="pretraining",
        dropout=0.1,
    )
    return replace(base, **_choose("bert", sizes, size))


def transformer(size: str = "base") -> ModelConfig:
    """Vaswani et al. 2017, "Attention Is All You Need", table 3, with the 37,000 shared tokens of section 5.1.

    That gives 63M and 214M parameters, biases included; the table has 65M and 213M.
    """
    sizes = {
        "base": {"d_model": 512, "n_heads": 8, "dropout": 0.1},
        "big": {"d_model": 1024, "n_heads": 16, "dropout": 0.3},
    }
    base = ModelConfig(
        architecture="encoder-decoder",
        vocab_size=37000,
        context_length=512,
        n_layers=6,
        norm_position="post",
        position="sinusoidal",
        embedding_scale=True,
        activation="relu",
        label_smoothing=0.1,
    )
    chosen = replace(base, **_choose("transformer", sizes, size))
    return replace(chosen, init_std=chosen.d_model**-0.5)
