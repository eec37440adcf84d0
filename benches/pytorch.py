#!/usr/bin/env python3
"""The figures of `cargo bench` by eager PyTorch on the CPU of this machine: B8 T512 C512 H8.

    python3 benches/pytorch.py [--dtype float32|bfloat16|float16] [--seconds 1]

Needs torch and nothing else. What is timed is what people write for these operators:

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
import os
import statistics
import time

import torch
import torch.nn.functional as F

BATCH, TIME, CHANNELS, HEADS = 8, 512, 512, 8
TOKENS = BATCH * TIME
HEAD_CHANNELS = CHANNELS // HEADS
WIDTHS = [3, 7, 15, 31, 63]
REACH = 31

# As in the Rust benchmarks: calls rotate among buffers of this many bytes in all, so that none finds its tokens in the
# cache.
WORKING_SET = 512 << 20


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


def dynamic_conv(x, generator):
    """x `[B, T, C]`, generator `[H K, C]`."""
    batch, length, channels = x.shape
    width = generator.shape[0] // HEADS
    logits = F.linear(x, generator).view(batch * length * HEADS, width, 1)
    weights = F.softmax(logits, dim=1)
    padded = F.pad(x, (0, 0, width // 2, width // 2))
    # [B, T, C, K] as a view, then in memory as one matrix [R, K] for each token and head.
    unfolded = padded.unfold(1, width, 1).reshape(batch * length * HEADS, channels // HEADS, width)
    return torch.bmm(unfolded, weights).view(batch, length, channels)


def dynamic_conv_by_tap(x, generator):
    """The same without unfolding: one multiply-add of all tokens for each tap."""
    batch, length, channels = x.shape
    width = generator.shape[0] // HEADS
    weights = F.softmax(F.linear(x, generator).view(batch, length, HEADS, width), dim=-1)
    padded = F.pad(x, (0, 0, width // 2, width // 2)).view(batch, -1, HEADS, channels // HEADS)
    y = torch.zeros(batch, length, HEADS, channels // HEADS, dtype=x.dtype)
    for j in range(width):
        y.addcmul_(weights[..., j : j + 1], padded[:, j : j + length])
    return y.view(batch, length, channels)


def split_heads(x):
    """`[B, T, C]` to `[B, H, T, D]`, a view."""
    return x.view(*x.shape[:2], HEADS, -1).transpose(1, 2)


def attention(q, k, v, mask=None):
    q, k, v = split_heads(q), split_heads(k), split_heads(v)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).reshape(BATCH, -1, CHANNELS)


def naive_attention(q, k, v):
    q, k, v = split_heads(q), split_heads(k), split_heads(v)
    scores = torch.matmul(q, k.transpose(-1, -2)) * HEAD_CHANNELS**-0.5
    return torch.matmul(F.softmax(scores, dim=-1), v).transpose(1, 2).reshape(BATCH, -1, CHANNELS)


def check():
    """Both convolutions against their formula, in double precision and plain loops."""
    width, heads, time_, channels = 5, HEADS, 6, 2 * HEADS
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
    torch.testing.assert_close(dynamic_conv(x, generator), dynamic)
    torch.testing.assert_close(dynamic_conv_by_tap(x, generator), dynamic)


def median_seconds(function, inputs, seconds):
    """The median time of function(*tensors), with another copy of the tensors each time."""
    size = sum(tensor.numel() * tensor.element_size() for tensor in inputs)
    sets = [[tensor.clone() for tensor in inputs] for _ in range(-(-WORKING_SET // size))]
    times = []
    for warm_up in (True, False):
        times.clear()
        end = time.perf_counter() + seconds * (0.25 if warm_up else 1.0)
        while len(times) < 5 or time.perf_counter() < end:
            tensors = sets[len(times) % len(sets)]
            start = time.perf_counter()
            function(*tensors)
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--seconds", type=float, default=1.0, help="for each figure")
    arguments = parser.parse_args()
    dtype = getattr(torch, arguments.dtype)
    torch.set_num_threads(cores())
    torch.manual_seed(0)
    check()

    def tokens(*shape):
        return torch.randn(*(shape or (BATCH, TIME, CHANNELS)), dtype=dtype)

    size = dtype.itemsize
    x_and_y = 2 * TOKENS * CHANNELS

    print(f"PyTorch {torch.__version__}, eager, CPU, {torch.get_num_threads()} threads, {arguments.dtype}")
    print(f"B{BATCH} T{TIME} C{CHANNELS} H{HEADS}, medians\n")
    print("| operator | K | ms | GB/s |")
    print("|---|---:|---:|---:|")

    def row(name, width, elements, function, inputs):
        seconds = median_seconds(function, inputs, arguments.seconds)
        print(f"| {name} | {width} | {seconds * 1e3:.3f} | {elements * size / seconds / 1e9:.2f} |", flush=True)

    row("copy of x", "", x_and_y, lambda y, x: y.copy_(x), (tokens(), tokens()))
    for width in WIDTHS:
        weight = tokens(HEADS, width)
        elements = x_and_y + weight.numel()
        first = (tokens(BATCH, CHANNELS, TIME),)
        row("light conv, x [B, C, T]", width, elements, lambda x: light_conv_channels_first(x, weight), first)
        row("light conv, x [B, T, C]", width, elements, lambda x: light_conv(x, weight), (tokens(),))
    for width in WIDTHS:
        generator = tokens(HEADS * width, CHANNELS)
        elements = x_and_y + generator.numel()
        x = (tokens(),)
        row("dynamic conv, unfolded", width, elements, lambda x: dynamic_conv(x, generator), x)
        row("dynamic conv, by tap", width, elements, lambda x: dynamic_conv_by_tap(x, generator), x)
        product = TOKENS * (CHANNELS + HEADS * width) + generator.numel()
        row("its product alone", width, product, lambda x: F.linear(x, generator), x)

    qkv = (tokens(), tokens(), tokens())
    row("attention", "", 2 * x_and_y, attention, qkv)
    positions = torch.arange(TIME)
    near = (positions[:, None] - positions[None, :]).abs() <= REACH // 2
    row("attention, local by mask", REACH, 2 * x_and_y, lambda q, k, v: attention(q, k, v, near), qkv)
    row("attention, naive", "", 2 * x_and_y, naive_attention, qkv)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
