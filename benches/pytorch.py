#!/usr/bin/env python3
"""The figures of `cargo bench` by eager PyTorch on this machine, its CPU or its NVIDIA GPU: B8 T512 C512 H8.

    python3 benches/pytorch.py [--device cpu|cuda] [--dtype float32|bfloat16|float16] [--seconds 1]

Needs torch, and the files beside it that begin as it does. `--size 8,4096,1024,16 --widths 3,31,127 --only light` is the group `light_conv_large`, and
without `--only` there are `dynamic_conv_large` and `by_length_large` too. `--beside FILE` reads what `cargo bench` wrote to
the file `LIGHTSPAN_BENCH_JSON` and sets it beside PyTorch's times; `--json FILE` adds the figures to a file, a line of JSON
each. On a GPU times are the device's own, of calls that were all put into its stream before the first began, as far as
that goes. With `--training` the calls are those of the group `training_by_length`: a forward pass, and the gradients of all
inputs and parameters by autograd. With `--layers` they are those of `norm_by_rows`, `linear_forms` and
`encoder_layer_by_length`, or at the large size of `norm_large` and so on: norms of x + residual, linear layers with what comes
after their product, and layers of encoders. What is timed is what people write for these operators:

- light convolution: softmax of the weight, then grouped conv1d, with x as `[B, C, T]` (which conv1d wants) and with x
  as `[B, T, C]` (which the layers around it have, so two transpositions more);
- dynamic convolution: the generating product, softmax, unfold, and a batched product over the taps; and with a
  multiply-add for each tap in place of the last two, which takes more care to write;
- span-based dynamic convolution: a depthwise conv1d, a product with its result, that times the query, and then the
  dynamic convolution of the values, unfolded, whose taps come from it;
- attention: scaled_dot_product_attention over the whole sequence, the same with a mask of the reach of the window,
  and the naive composition of two products and a softmax;
- layers: RMS norms (ConvBERT's: layer norms), linear layers, and the convolutions above, each as grouped conv1d or unfolded;
  the Transformer's with q, k and v by a product each, and by one for all three.

GB/s are the bytes that the operator must move at least (each input and output once) over the time: those of
`Problem::bytes()`, so the two tables compare line by line.
"""

import argparse
import functools
import itertools
import json
import os
import statistics
import time

import torch
import torch.nn.functional as F

from pytorch_layers import REACH, TYPES, Layer, layers
from pytorch_operators import (
    attention,
    depthwise_conv,
    dynamic_conv,
    dynamic_conv_by_tap,
    light_conv,
    light_conv_channels_first,
    naive_attention,
    span_conv,
)

# The sizes of the Rust benchmarks.
SIZE = "8,512,512,8"
LARGE = "8,4096,1024,16"
WIDTHS = "3,7,15,31,63"

# As in the Rust benchmarks: calls rotate among buffers of this many bytes in all, so that none finds its tokens in the
# cache.
WORKING_SET = 512 << 20

# Calls of a GPU between two readings of its clock.
BATCH_OF_CALLS = 8


def cores():
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check():
    """The convolutions against their formulas, in double precision and plain loops."""
    width, heads, time_, channels = 5, 8, 6, 16
    x = torch.randn(1, time_, channels, dtype=torch.float64)
    weight = torch.randn(heads, width, dtype=torch.float64)
    generator = torch.randn(heads * width, channels, dtype=torch.float64)

    def formula(x, filters):
        """`filters(t)` has a row of taps for every so many channels."""
        y = torch.zeros_like(x)
        for t in range(time_):
            taps = filters(t)
            for c in range(channels):
                for j in range(width):
                    token = t + j - width // 2
                    if 0 <= token < time_:
                        y[0, t, c] += taps[c // (channels // len(taps)), j] * x[0, token, c]
        return y

    def generated(x, query):
        return formula(x, lambda t: F.softmax((generator @ query[0, t]).view(heads, width), dim=-1))

    torch.testing.assert_close(light_conv(x, weight), formula(x, lambda t: F.softmax(weight, dim=-1)))
    torch.testing.assert_close(dynamic_conv(x, generator, heads), generated(x, x))
    torch.testing.assert_close(dynamic_conv_by_tap(x, generator, heads), generated(x, x))
    taps = torch.randn(channels, width, dtype=torch.float64)
    torch.testing.assert_close(depthwise_conv(x, taps), formula(x, lambda t: taps))
    # Taps two tokens apart are those of every other token.
    dilated = depthwise_conv(x, taps, 2)
    for first in (0, 1):
        torch.testing.assert_close(dilated[:, first::2], depthwise_conv(x[:, first::2], taps))
    gated = F.glu(torch.cat([x, -x], dim=-1))
    torch.testing.assert_close(gated, x * torch.sigmoid(-x))
    layer = Layer(channels, 4, functools.partial(torch.randn, dtype=torch.float64))
    kinds = {name: functools.partial(layer.around, mix) for name, _, mix in layer.mixers()}
    torch.testing.assert_close(kinds["dynamic, unfolded"](x), kinds["dynamic, by tap"](x))
    torch.testing.assert_close(kinds["Transformer"](x), kinds["Transformer, q, k and v at once"](x))
    query, value = torch.randn_like(x), torch.randn_like(x)
    depthwise = torch.randn(channels, 1, width, dtype=torch.float64)
    pointwise = torch.randn(channels, channels, dtype=torch.float64)
    key = formula(x, lambda t: depthwise[:, 0]) @ pointwise.T * query
    spans = span_conv(x, query, value, depthwise, pointwise, generator, heads)
    torch.testing.assert_close(spans, generated(value, key))


class Cpu:
    """Its calls, each timed by the clock of the host."""

    def time(self, calls):
        times = []
        for call in calls:
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return times


class Cuda:
    """Its calls, timed by the clock of the device some at a time, behind a copy that gives the host a head start."""

    def __init__(self):
        self.copy = [torch.zeros(512 << 20, dtype=torch.uint8, device="cuda") for _ in range(2)]

    def time(self, calls):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.copy[0].copy_(self.copy[1])
        begin.record()
        for call in calls:
            call()
        end.record()
        end.synchronize()
        return [begin.elapsed_time(end) * 1e-3 / len(calls)]


def median_seconds(clock, function, inputs, seconds):
    """The median time of function(*tensors), with another copy of the tensors each time."""
    size = sum(tensor.numel() * tensor.element_size() for tensor in inputs)
    sets = itertools.cycle([[tensor.clone() for tensor in inputs] for _ in range(-(-WORKING_SET // size))])
    calls = BATCH_OF_CALLS if isinstance(clock, Cuda) else 1
    times = []
    for warm_up in (True, False):
        times.clear()
        end = time.perf_counter() + seconds * (0.25 if warm_up else 1.0)
        while len(times) < 5 or time.perf_counter() < end:
            times += clock.time([functools.partial(function, *next(sets)) for _ in range(calls)])
    return statistics.median(times)


def step(function, parameters):
    """A forward pass over the tensors but the last, and all gradients from that one: the gradient of its output."""

    def both(*tensors):
        inputs = [tensor.detach().requires_grad_() for tensor in tensors[:-1]]
        return torch.autograd.grad(function(*inputs), [*inputs, *parameters], tensors[-1])

    return both


def train(arguments, tokens, row):
    """Both passes of every operator, at the width of the group `training_by_length`."""
    batch, length, channels, heads = arguments.size
    one = batch * length * channels

    def parameters(*shapes):
        return [tokens(*shape).requires_grad_() for shape in shapes]

    def both(name, operator, width, count, function, weights, copies):
        """`count` token tensors must move in both passes, and the parameters three times."""
        elements = count * one + 3 * sum(weight.numel() for weight in weights)
        inputs = tuple(tokens() for _ in range(copies))
        row(name, operator, width, elements, step(function, weights), inputs)

    [weight] = light = parameters((heads, REACH))
    both("light conv, x [B, T, C]", "light_conv", REACH, 5, lambda x: light_conv(x, weight), light, 2)
    [generator] = dynamic = parameters((heads * REACH, channels))
    of = "dynamic_conv"
    both("dynamic conv, unfolded", of, REACH, 5, lambda x: dynamic_conv(x, generator, heads), dynamic, 2)
    both("dynamic conv, by tap", of, REACH, 5, lambda x: dynamic_conv_by_tap(x, generator, heads), dynamic, 2)
    span = parameters((channels, 1, REACH), (channels, channels), (heads * REACH, channels))
    spans = lambda x, query, value: span_conv(x, query, value, *span, heads)
    both("span conv, unfolded", "span_conv", REACH, 11, spans, span, 4)
    positions = torch.arange(length, device=arguments.device)
    near = (positions[:, None] - positions[None, :]).abs() <= REACH // 2
    local = functools.partial(attention, heads=heads, mask=near)
    both("attention", "fused attention", "", 12, functools.partial(attention, heads=heads), [], 4)
    both("attention, local by mask", "local attention", REACH, 12, local, [], 4)
    both("attention, naive", "naive attention", "", 12, functools.partial(naive_attention, heads=heads), [], 4)


def numbers(text):
    return [int(number) for number in text.split(",")]


class Beside:
    """The medians of `cargo bench` for the sizes that it and this script have in common."""

    def __init__(self, path, arguments):
        with open(path) as file:
            figures = [json.loads(line) for line in file]
        self.seconds = {(f["group"], f["benchmark"], f["parameter"]): f["seconds"] for f in figures}
        small, large = arguments.size == numbers(SIZE), arguments.large
        self.size = "" if small else "_large" if large else None
        self.device = "" if arguments.device == "cpu" else f"_{arguments.device}"
        self.dtype, self.length = TYPES[arguments.dtype], str(arguments.size[1])
        self.training = arguments.training

    def find(self, operator, width):
        """The seconds of an operator with so many taps, or attention with none; or of a group, a line and its parameter.
        None where it was not measured."""
        if self.size is None or operator is None:
            return None
        if isinstance(operator, tuple):
            group, line, parameter = operator
            # Where a line does not say its type, it is that of its group.
            types = {"": "f32", "_large": "bf16"}
            same = parameter == self.dtype or self.dtype == types[self.size]
            return self.seconds.get((group + self.device, line, parameter)) if same else None
        if self.training:
            # One type, one width and one size.
            training = ("training_by_length" + self.device, operator, self.length)
            return self.seconds.get(training) if self.size == "" and self.dtype == "f32" else None
        by_width = operator + (self.size or "_by_width") + self.device
        found = self.seconds.get((by_width, self.dtype, str(width)))
        # The other groups have one type and one width.
        types = {"": "f32", "_large": "bf16"}
        if found is None and self.dtype == types[self.size] and width in ("", REACH):
            found = self.seconds.get(("by_length" + self.size + self.device, operator, self.length))
        return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--size", type=numbers, default=numbers(SIZE), metavar="B,T,C,H")
    parser.add_argument("--widths", type=numbers, default=numbers(WIDTHS), metavar="K,..")
    parser.add_argument("--only", choices=["light"], help="the copy and light convolution, and nothing else")
    parser.add_argument("--training", action="store_true", help="both passes, by autograd")
    parser.add_argument("--layers", action="store_true", help="norms, linear layers, and layers of encoders")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each figure")
    parser.add_argument("--beside", metavar="FILE", help="the figures of cargo bench, as LIGHTSPAN_BENCH_JSON has them")
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    arguments.large = arguments.size == numbers(LARGE)
    dtype = getattr(torch, arguments.dtype)
    batch, length, channels, heads = arguments.size
    torch.set_num_threads(cores())
    torch.manual_seed(0)
    # Products and sums in f32, as the crate's.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    with torch.device(arguments.device):
        check()

    def tokens(*shape):
        return torch.randn(*(shape or (batch, length, channels)), dtype=dtype, device=arguments.device)

    size = dtype.itemsize
    x_and_y = 2 * batch * length * channels
    if arguments.device == "cuda":
        clock, device = Cuda(), torch.cuda.get_device_name()
    else:
        clock, device = Cpu(), f"CPU, {torch.get_num_threads()} threads"

    print(f"PyTorch {torch.__version__}, eager, {device}, {arguments.dtype}")
    print(f"B{batch} T{length} C{channels} H{heads}, medians\n")
    beside = Beside(arguments.beside, arguments) if arguments.beside else None
    print("| operator | K | ms | GB/s |" + (" lightspan, ms | times |" if beside else ""))
    print("|---|---:|---:|---:|" + ("---:|---:|" if beside else ""))

    def row(name, operator, width, elements, function, inputs):
        try:
            seconds = median_seconds(clock, function, inputs, arguments.seconds)
        except torch.OutOfMemoryError:
            print(f"| {name} | {width} | out of memory | |" + (" | |" if beside else ""), flush=True)
            return
        speed = f"{elements * size / seconds / 1e9:.2f}" if elements else "-"
        line = f"| {name} | {width} | {seconds * 1e3:.3f} | {speed} |"
        ours = beside and beside.find(operator, width)
        if beside:
            line += f" {ours * 1e3:.3f} | {seconds / ours:.2f} |" if ours else " - | - |"
        print(line, flush=True)
        if arguments.json:
            figure = {
                "torch": torch.__version__,
                "device": device,
                "dtype": arguments.dtype,
                "size": arguments.size,
                "benchmark": name,
                "width": width or None,
                "seconds": seconds,
                "bytes": elements * size if elements else None,
                "lightspan_seconds": ours or None,
            }
            with open(arguments.json, "a") as file:
                print(json.dumps(figure), file=file)

    if arguments.training:
        train(arguments, tokens, row)
        return
    # From here on nothing is trained.
    torch.set_grad_enabled(False)
    if arguments.layers:
        layers(arguments, tokens, row)
        return
    row("copy of x", "copy", "", x_and_y, lambda y, x: y.copy_(x), (tokens(), tokens()))
    for width in arguments.widths:
        weight = tokens(heads, width)
        elements = x_and_y + weight.numel()
        x = (tokens(batch, channels, length),)
        row(
            "light conv, x [B, C, T]",
            "light_conv",
            width,
            elements,
            lambda x: light_conv_channels_first(x, weight),
            x,
        )
        row("light conv, x [B, T, C]", "light_conv", width, elements, lambda x: light_conv(x, weight), (tokens(),))
    if arguments.only == "light":
        return
    for width in arguments.widths:
        generator = tokens(heads * width, channels)
        elements = x_and_y + generator.numel()
        of = "dynamic_conv"
        x = (tokens(),)
        row("dynamic conv, unfolded", of, width, elements, lambda x: dynamic_conv(x, generator, heads), x)
        row("dynamic conv, by tap", of, width, elements, lambda x: dynamic_conv_by_tap(x, generator, heads), x)
        product = batch * length * (channels + heads * width) + generator.numel()
        row("its product alone", None, width, product, lambda x: F.linear(x, generator), x)

    generator = tokens(heads * REACH, channels)
    depthwise, pointwise = tokens(channels, 1, REACH), tokens(channels, channels)
    elements = 2 * x_and_y + sum(weight.numel() for weight in (depthwise, pointwise, generator))
    row(
        "span conv, unfolded",
        "span_conv",
        REACH,
        elements,
        lambda x, query, value: span_conv(x, query, value, depthwise, pointwise, generator, heads),
        (tokens(), tokens(), tokens()),
    )

    qkv = (tokens(), tokens(), tokens())
    row("attention", "fused attention", "", 2 * x_and_y, lambda q, k, v: attention(q, k, v, heads), qkv)
    positions = torch.arange(length, device=arguments.device)
    near = (positions[:, None] - positions[None, :]).abs() <= REACH // 2
    local = functools.partial(attention, heads=heads, mask=near)
    row("attention, local by mask", "local attention", REACH, 2 * x_and_y, local, qkv)
    row("attention, naive", "naive attention", "", 2 * x_and_y, lambda q, k, v: naive_attention(q, k, v, heads), qkv)


if __name__ == "__main__":
    main()
