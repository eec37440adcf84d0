"""Norms, linear layers and layers of encoders as people write them in PyTorch, eager: what `pytorch.py --layers` times."""

import functools

import torch
import torch.nn.functional as F

from pytorch_operators import attention, depthwise_conv, dynamic_conv, dynamic_conv_by_tap, light_conv

# Taps of the Rust benchmarks.
REACH = 31

# What types are called there.
TYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


class Layer:
    """The encoder layer of the Rust benchmarks: RMS norms before, C channels, 4 C in the feed-forward layer."""

    def __init__(self, channels, heads, tokens):
        self.channels, self.heads = channels, heads
        scale = channels**-0.5
        self.matrix = lambda outputs, inputs: tokens(outputs, inputs) * scale
        self.vector = tokens
        # All kinds have the same ones.
        self.gated, self.gated_bias = self.matrix(2 * channels, channels), tokens(2 * channels)
        self.output, self.bias = self.matrix(channels, channels), tokens(channels)
        self.qkv = self.matrix(3 * channels, channels)
        self.norms = [tokens(channels), tokens(channels)]
        self.up, self.up_bias = self.matrix(4 * channels, channels), tokens(4 * channels)
        self.down, self.down_bias = self.matrix(channels, 4 * channels), tokens(channels)

    def around(self, mix, x):
        """x `[B, T, C]`; `mix` is what mixes tokens."""
        size, [first, second] = (self.channels,), self.norms
        x = x + mix(F.rms_norm(x, size, first, 1e-6))
        hidden = F.relu(F.linear(F.rms_norm(x, size, second, 1e-6), self.up, self.up_bias))
        return x + F.linear(hidden, self.down, self.down_bias)

    def conv_block(self, conv):
        """Linear, GLU, the convolution of `[B, T, C]`, and Linear."""
        gated = lambda x: F.glu(F.linear(x, self.gated, self.gated_bias))
        return lambda x: F.linear(conv(gated(x)), self.output, self.bias)

    def attention(self, packed):
        """Attention, its q, k and v by a product each, or by one that is `packed`."""
        parts = [part.contiguous() for part in self.qkv.chunk(3)]

        def mix(x):
            q, k, v = F.linear(x, self.qkv).chunk(3, dim=-1) if packed else (F.linear(x, part) for part in parts)
            return F.linear(attention(q, k, v, self.heads), self.output)

        return mix

    def mixers(self):
        """What mixes tokens: its name here, its name in the Rust benchmarks, and how."""
        c, heads, vector, matrix = self.channels, self.heads, self.vector, self.matrix
        taps, filters = vector(c, REACH), vector(heads, REACH)
        generator, bias = matrix(heads * REACH, c), vector(heads * REACH)
        return [
            ("depthwise", "depthwise", self.conv_block(lambda x: depthwise_conv(x, taps))),
            ("dilated", "dilated", self.conv_block(lambda x: depthwise_conv(x, taps, 2))),
            ("light", "light", self.conv_block(lambda x: light_conv(x, filters))),
            ("dynamic, unfolded", "dynamic", self.conv_block(lambda x: dynamic_conv(x, generator, heads, bias=bias))),
            ("dynamic, by tap", "dynamic", self.conv_block(lambda x: dynamic_conv_by_tap(x, generator, heads, bias))),
            ("Transformer", "Transformer", self.attention(packed=False)),
            ("Transformer, q, k and v at once", "Transformer", self.attention(packed=True)),
        ]


class ConvBertLayer:
    """ConvBERT's: mixed attention and GELU, layer norms after."""

    WIDTH = 9

    def __init__(self, channels, heads, tokens):
        c, a, k = channels, channels // 2, self.WIDTH
        linear = lambda outputs, inputs: (tokens(outputs, inputs) * inputs**-0.5, tokens(outputs))
        self.heads, self.size = heads // 2, (c,)
        self.query, self.key, self.value, self.conv_value = (linear(a, c) for _ in range(4))
        self.depthwise, self.pointwise = tokens(c, 1, k), linear(a, c)
        self.kernel, self.output = linear(self.heads * k, a), linear(c, 2 * a)
        self.up, self.down = linear(4 * c, c), linear(c, 4 * c)
        self.norms = [(tokens(c), tokens(c)) for _ in range(2)]

    def __call__(self, x):
        q, k, v, value = (F.linear(x, *layer) for layer in (self.query, self.key, self.value, self.conv_value))
        channels, _, width = self.depthwise.shape
        spans = F.conv1d(x.transpose(1, 2), self.depthwise, padding=width // 2, groups=channels).transpose(1, 2)
        kernel, bias = self.kernel
        convolved = dynamic_conv(value, kernel, self.heads, F.linear(spans, *self.pointwise) * q, bias)
        mixed = torch.cat([attention(q, k, v, self.heads), convolved], dim=-1)
        x = F.layer_norm(x + F.linear(mixed, *self.output), self.size, *self.norms[0])
        hidden = F.gelu(F.linear(x, *self.up))
        return F.layer_norm(x + F.linear(hidden, *self.down), self.size, *self.norms[1])


def layers(arguments, tokens, row):
    """Norms and linear layers with what comes beside them, and layers of encoders."""
    batch, length, channels, heads = arguments.size
    one, large = batch * length * channels, "_large" if arguments.large else ""
    dtype, size = TYPES[arguments.dtype], (channels,)
    weight, bias = tokens(channels), tokens(channels)
    for name, norm in (("layer", F.layer_norm), ("rms", F.rms_norm)):
        ours = ("norm_large", f"{name} pre-norm", dtype) if large else ("norm_by_rows", name, str(batch * length))

        def both(x, residual, norm=norm):
            x = x + residual
            return norm(x, size, weight), x

        row(f"{name} norm of a sum", ours, "", 4 * one + channels, both, (tokens(), tokens()))

    matrix, gated = (tokens(rows, channels) * channels**-0.5 for rows in (channels, 2 * channels))
    gated_bias = tokens(2 * channels)
    residual = tokens()
    forms = [
        ("relu", lambda x: F.relu(F.linear(x, matrix, bias))),
        ("gelu", lambda x: F.gelu(F.linear(x, matrix, bias))),
        ("gelu_tanh", lambda x: F.gelu(F.linear(x, matrix, bias), approximate="tanh")),
        ("glu", lambda x: F.glu(F.linear(x, gated, gated_bias))),
        ("residual", lambda x: residual + F.linear(x, matrix, bias)),
    ]
    for name, form in forms:
        rows = 2 * channels if name == "glu" else channels
        elements = (3 if name == "residual" else 2) * one + rows * (channels + 1)
        row(f"linear, {name}", ("linear_forms" + large, name, dtype), "", elements, form, (tokens(),))

    layer = Layer(channels, heads, tokens)
    for name, ours, mix in layer.mixers():
        whole = functools.partial(layer.around, mix)
        row(f"layer, {name}", ("encoder_layer_by_length" + large, ours, str(length)), "", None, whole, (tokens(),))
    ours = ("encoder_layer_by_length" + large, "ConvBERT", str(length))
    row("layer, ConvBERT, unfolded", ours, "", None, ConvBertLayer(channels, heads, tokens), (tokens(),))
