// A window over the tokens of a sequence: which tokens an output reads, and those tokens.

struct Convolution {
    // Taps K.
    width: u32,
    // Tokens from one tap to the next, r.
    dilation: u32,
    // Tokens before the output that the first tap reads, P.
    left: u32,
    // Rows of a sequence in the history, (K - 1) r.
    reach: u32,
    channels: u32,
    // Channels of a head, R.
    head_channels: u32,
    // 0: none, 1: softmax over all taps, 2: softmax over the taps in range.
    normalize: u32,
    has_bias: u32,
    x_offset: u32,
    x_stride: u32,
    history_offset: u32,
    y_offset: u32,
    y_stride: u32,
    bias_offset: u32,
    unused_1: u32,
    unused_2: u32,
}

@group(0) @binding(3) var<storage, read> x: array<u32>;
@group(0) @binding(4) var<storage, read> history: array<u32>;

// What an invocation convolves.
struct Place {
    sequence: Sequence,
    // Number of the sequence.
    index: u32,
    // Its first channel.
    channel: u32,
    // Heads of its first and second channel, counted from the tile's first.
    heads: vec2<u32>,
    // Its first output, counted in the tile.
    output: u32,
    // Position of that output in the sequence.
    position: u32,
}

// The token at a position; negative ones are history. Zero where there is none.
fn token(conv: Convolution, place: Place, position: i32) -> Channels {
    if position >= 0 {
        if u32(position) < place.sequence.length {
            let row = place.sequence.first + u32(position);
            let element = row * conv.x_stride + conv.x_offset + place.channel;
            return channels_in(x[word_of(element, X)], element, X);
        }
    } else if u32(-position) <= place.sequence.past {
        let row = place.index * conv.reach + conv.reach - u32(-position);
        let element = row * conv.channels + conv.history_offset + place.channel;
        return channels_in(history[word_of(element, X)], element, X);
    }
    return Channels();
}

// The taps of an output at `position` that read a token: from the first to before the second.
fn taps_in_range(conv: Convolution, sequence: Sequence, position: u32) -> vec2<u32> {
    let seen = position + sequence.past;
    var first = 0u;
    if conv.left > seen {
        first = (conv.left - seen + conv.dilation - 1u) / conv.dilation;
    }
    var end = 0u;
    if sequence.length + conv.left > position {
        end = (sequence.length + conv.left - position + conv.dilation - 1u) / conv.dilation;
    }
    end = min(end, conv.width);
    return vec2<u32>(min(first, end), end);
}
