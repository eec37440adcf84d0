#!/usr/bin/env python3
"""The figures of `cargo bench` by eager PyTorch on this machine, its CPU or its NVIDIA GPU: B8 T512 C512 H8.

    python3 benches/pytorch.py [--device cpu|cuda] [--dtype float32|bfloat16|float16] [--seconds 1]

Needs torch and nothing else. `--size 8,4096,1024,16 --widths 3,31,127 --only light` is the group `light_conv_large`; `--json FILE` adds
the figures to a file, a line of JSON each. On a GPU times are the device's own, of calls that were all put into its
stream before the first began, as far as that goes. What is timed is what people write for these operators:

- light convolution: softmax of the weight, then grouped conv1d, with x as `[B, C, T]` (which conv1d wants) and with x
  as `[B, T, C]` (which the layers around it have, so two transpositions more);
- dynamic convolution: the generating product, softmax, unfold, and a batched product over the taps; and with a
  multiply-add for each tap in place of the last two, which takes more care to write;
- attention: scaled_dot_product_attention over the whole sequence, the same with a mask of the reach of the window,
  and the naive composition of two products and a softmax.

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

SIZE = "8,512,512,8"
WIDTHS = "3,7,15,31,63"
REACH = 31

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


def light_conv_channels_first(x, weight):
    """x `[B, C, T]`, weight `[H, K]`: a depthwise convolution whose filters repeat within a head."""
    channels = x.shape[1]
    heads, width = weight.shape
    filters = F.softmax(weight, dim=-1).repeat_interleave(channels // heads, dim=0).unsqueeze(1)
    return F.conv1d(x, filters, padding=width // 2, groups=channels)


def light_conv(x, weight):
    """x `[B, T, C]`, weight `[H, K]`."""
    return light_conv_channels_first(x.transpose(1, 2), weight).transpose(1, 2).contiguous()


def dynamic_conv(x, generator, heads):
    """x `[B, T, C]`, generator `[H K, C]`."""
    batch, length, channels = x.shape
    width = generator.shape[0] // heads
    logits = F.linear(x, generator).view(batch * length * heads, width, 1)
    weights = F.softmax(logits, dim=1)
    padded = F.pad(x, (0, 0, width // 2, width // 2))
    # [B, T, C, K] as a view, then in memory as one matrix [R, K] for each token and head.
    unfolded = padded.unfold(1, width, 1).reshape(batch * length * heads, channels // heads, width)
    return torch.bmm(unfolded, weights).view(batch, length, channels)


def dynamic_conv_by_tap(x, generator, heads):
    """The same without unfolding: one multiply-add of all tokens for each tap."""
    batch, length, channels = x.shape
    width = generator.shape[0] // heads
    weights = F.softmax(F.linear(x, generator).view(batch, length, heads, width), dim=-1)
    padded = F.pad(x, (0, 0, width // 2, width // 2)).view(batch, -1, heads, channels // heads)
    y = torch.zeros(batch, length, heads, channels // heads, dtype=x.dtype, device=x.device)
    for j in range(width):
        y.addcmul_(weights[..., j : j + 1], padded[:, j : j + length])
    return y.view(batch, length, channels)


def split_heads(x, heads):
    """`[B, T, C]` to `[B, H, T, D]`, a view."""
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


def join_heads(x):
    """`[B, H, T, D]` to `[B, T, C]`."""
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], -1)


def attention(q, k, v, heads, mask=None):
    q, k, v = (split_heads(x, heads) for x in (q, k, v))
    return join_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=mask))


def naive_attention(q, k, v, heads):
    q, k, v = (split_heads(x, heads) for x in (q, k, v))
    scores = torch.matmul(q, k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    return join_heads(torch.matmul(F.softmax(scores, dim=-1), v))


def check():
    """Both convolutions against their formula, in double precision and plain loops."""
    width, heads, time_, channels = 5, 8, 6, 16
    x = torch.randn(1, time_, channels, dtype=torch.float64)
    weight = torch.randn(heads, width, dtype=torch.float64)
    generator = torch.randn(heads * width, channels, dtype=torch.float64)

    def formula(filters):
        y = torch.zeros_like(x)
        for t in range(time_):
            for c in range(channels):
                for j in range(width):
                    token = t + j - width // 2
                    if 0 <= token < time_:
                        y[0, t, c] += filters(t)[c // (channels // heads), j] * x[0, token, c]
        return y

    torch.testing.assert_close(light_conv(x, weight), formula(lambda t: F.softmax(weight, dim=-1)))
    dynamic = formula(lambda t: F.softmax((generator @ x[0, t]).view(heads, width), dim=-1))
    torch.testing.assert_close(dynamic_conv(x, generator, heads), dynamic)
    torch.testing.assert_close(dynamic_conv_by_tap(x, generator, heads), dynamic)


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


def numbers(text):
    return [int(number) for number in text.split(",")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--size", type=numbers, default=numbers(SIZE), metavar="B,T,C,H")
    parser.add_argument("--widths", type=numbers, default=numbers(WIDTHS), metavar="K,..")
    parser.add_argument("--only", choices=["light"], help="the copy and light convolution, and nothing else")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each figure")
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
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
    print("| operator | K | ms | GB/s |")
    print("|---|---:|---:|---:|")

    def row(name, width, elements, function, inputs):
        seconds = median_seconds(clock, function, inputs, arguments.seconds)
        print(f"| {name} | {width} | {seconds * 1e3:.3f} | {elements * size / seconds / 1e9:.2f} |", flush=True)
        if arguments.json:
            figure = {
                "torch": torch.__version__,
                "device": device,
                "dtype": arguments.dtype,
                "size": arguments.size,
                "benchmark": name,
                "width": width or None,
                "seconds": seconds,
                "bytes": elements * size,
            }
            with open(arguments.json, "a") as file:
                print(json.dumps(figure), file=file)

    row("copy of x", "", x_and_y, lambda y, x: y.copy_(x), (tokens(), tokens()))
    for width in arguments.widths:
        weight = tokens(heads, width)
        elements = x_and_y + weight.numel()
        first = (tokens(batch, channels, length),)
        row("light conv, x [B, C, T]", width, elements, lambda x: light_conv_channels_first(x, weight), first)
        row("light conv, x [B, T, C]", width, elements, lambda x: light_conv(x, weight), (tokens(),))
    if arguments.only == "light":
        return
    for width in arguments.widths:
        generator = tokens(heads * width, channels)
        elements = x_and_y + generator.numel()
        x = (tokens(),)
        row("dynamic conv, unfolded", width, elements, lambda x: dynamic_conv(x, generator, heads), x)
        row("dynamic conv, by tap", width, elements, lambda x: dynamic_conv_by_tap(x, generator, heads), x)
        product = batch * length * (channels + heads * width) + generator.numel()
        row("its product alone", width, product, lambda x: F.linear(x, generator), x)

    qkv = (tokens(), tokens(), tokens())
    row("attention", "", 2 * x_and_y, lambda q, k, v: attention(q, k, v, heads), qkv)
    positions = torch.arange(length, device=arguments.device)
    near = (positions[:, None] - positions[None, :]).abs() <= REACH // 2
    row("attention, local by mask", REACH, 2 * x_and_y, lambda q, k, v: attention(q, k, v, heads, near), qkv)
    row("attention, naive", "", 2 * x_and_y, lambda q, k, v: naive_attention(q, k, v, heads), qkv)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
