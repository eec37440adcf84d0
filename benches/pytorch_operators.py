"""The operators as people write them in PyTorch, eager: what `pytorch.py` times, and the layers of `pytorch_layers.py` are made of."""

import torch
import torch.nn.functional as F


def light_conv_channels_first(x, weight):
    """x `[B, C, T]`, weight `[H, K]`: a depthwise convolution whose filters repeat within a head."""
    channels = x.shape[1]
    heads, width = weight.shape
    filters = F.softmax(weight, dim=-1).repeat_interleave(channels // heads, dim=0).unsqueeze(1)
    return F.conv1d(x, filters, padding=width // 2, groups=channels)


def depthwise_conv(x, weight, dilation=1):
    """x `[B, T, C]`, weight `[C, K]`, as it is."""
    reach = (weight.shape[1] - 1) * dilation
    x = x.transpose(1, 2)
    y = F.conv1d(x, weight.unsqueeze(1), padding=reach // 2, dilation=dilation, groups=x.shape[1])
    return y.transpose(1, 2).contiguous()


def light_conv(x, weight):
    """x `[B, T, C]`, weight `[H, K]`."""
    return light_conv_channels_first(x.transpose(1, 2), weight).transpose(1, 2).contiguous()


def dynamic_conv(x, generator, heads, query=None, bias=None):
    """x `[B, T, C]`, generator `[H K, C]` with or without a bias, and a query `[B, T, C]` where it is not x."""
    batch, length, channels = x.shape
    width = generator.shape[0] // heads
    query = x if query is None else query
    logits = F.linear(query, generator, bias).view(batch * length * heads, width, 1)
    weights = F.softmax(logits, dim=1)
    padded = F.pad(x, (0, 0, width // 2, width // 2))
    # [B, T, C, K] as a view, then in memory as one matrix [R, K] for each token and head.
    unfolded = padded.unfold(1, width, 1).reshape(batch * length * heads, channels // heads, width)
    return torch.bmm(unfolded, weights).view(batch, length, channels)


def dynamic_conv_by_tap(x, generator, heads, bias=None):
    """The same without unfolding: one multiply-add of all tokens for each tap."""
    batch, length, channels = x.shape
    width = generator.shape[0] // heads
    weights = F.softmax(F.linear(x, generator, bias).view(batch, length, heads, width), dim=-1)
    padded = F.pad(x, (0, 0, width // 2, width // 2)).view(batch, -1, heads, channels // heads)
    y = torch.zeros(batch, length, heads, channels // heads, dtype=x.dtype, device=x.device)
    for j in range(width):
        y.addcmul_(weights[..., j : j + 1], padded[:, j : j + length])
    return y.view(batch, length, channels)


def span_conv(x, query, value, depthwise, pointwise, generator, heads):
    """x, query and value `[B, T, C]`, depthwise `[C, 1, K]`, pointwise `[C, C]`, generator `[H K, C]`."""
    channels, _, width = depthwise.shape
    spans = F.conv1d(x.transpose(1, 2), depthwise, padding=width // 2, groups=channels).transpose(1, 2)
    return dynamic_conv(value, generator, heads, F.linear(spans, pointwise) * query)


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
