// Taps times tokens: the sum over a window, for STEPS outputs of one invocation.
//
// The tokens of a quad of taps slide through registers: each is loaded once and meets all the taps that want it.
// The operator says which taps with `taps_of`, and whether they differ from step to step (PER_STEP).

// The STEPS outputs of an invocation, one dilation apart.
alias Outputs = array<Channels, STEPS>;

// Four taps, of the head of the first channel and of that of the second.
struct Taps {
    first: vec4<f32>,
    second: vec4<f32>,
}

// Adds the taps of `quads` quads, the first of which is `first_quad`, to the outputs.
fn accumulate(
    conv: Convolution, place: Place, first_quad: u32, quads: u32, outputs: ptr<function, Outputs>,
) {
    let dilation = i32(conv.dilation);
    let length = i32(place.sequence.length);
    // Older tokens than a window reaches count for nothing, and would not count in 31 bits.
    let past = i32(min(place.sequence.past, conv.reach));
    // The quads whose taps are in range of some step: the others, of a window wider than its sequence, are passed over.
    let begin = i32(place.position) - i32(conv.left) + i32(4u * first_quad) * dilation;
    let skipped = max(-past - begin - i32(STEPS - 1u + 3u) * dilation, 0) / (4 * dilation);
    let end = min(i32(quads), (max(length - begin, 0) + 4 * dilation - 1) / (4 * dilation));
    // The token of step 0 and the quad's first tap.
    var position = begin + skipped * 4 * dilation;
    // tokens[n + j] is that of step n and the quad's tap j.
    var tokens: array<Channels, STEPS + 3u>;
    for (var i = 0u; i < STEPS - 1u; i++) {
        tokens[i] = token(conv, place, position + i32(i) * dilation);
    }
    for (var quad = u32(skipped); quad < u32(end); quad++) {
        for (var i = STEPS - 1u; i < STEPS + 3u; i++) {
            tokens[i] = token(conv, place, position + i32(i) * dilation);
        }
        let taps_left = conv.width - 4u * (first_quad + quad);
        let last = position + i32(STEPS + 2u) * dilation;
        var taps: Taps;
        if PER_STEP == 0u {
            taps = taps_of(place, quad, 0u);
        }
        if position >= 0 && last < length {
            for (var n = 0u; n < STEPS; n++) {
                if PER_STEP == 1u {
                    taps = taps_of(place, quad, n);
                }
                var sum = fma(channels_of(taps.first.x, taps.second.x), tokens[n], (*outputs)[n]);
                // The last quad may have fewer taps, and a token under one that there is not may be anything.
                if taps_left > 1u {
                    sum = fma(channels_of(taps.first.y, taps.second.y), tokens[n + 1u], sum);
                }
                if taps_left > 2u {
                    sum = fma(channels_of(taps.first.z, taps.second.z), tokens[n + 2u], sum);
                }
                if taps_left > 3u {
                    sum = fma(channels_of(taps.first.w, taps.second.w), tokens[n + 3u], sum);
                }
                (*outputs)[n] = sum;
            }
        } else {
            // What is out of range is left out by selection: the token is zero, and so has the tap to be, which may be
            // infinite. What lies under a tap that there is not may be anything, and is passed over.
            var in_range: array<bool, STEPS + 3u>;
            for (var i = 0u; i < STEPS + 3u; i++) {
                let at = position + i32(i) * dilation;
                in_range[i] = at >= -past && at < length;
            }
            for (var n = 0u; n < STEPS; n++) {
                if PER_STEP == 1u {
                    taps = taps_of(place, quad, n);
                }
                for (var j = 0u; j < 4u; j++) {
                    if j < taps_left {
                        let tap = channels_of(taps.first[j], taps.second[j]);
                        let used = select(Channels(), tap, in_range[n + j]);
                        (*outputs)[n] = fma(used, tokens[n + j], (*outputs)[n]);
                    }
                }
            }
        }
        for (var i = 0u; i < STEPS - 1u; i++) {
            tokens[i] = tokens[i + 4u];
        }
        position += 4 * dilation;
    }
}

// Writes the outputs that are rows of the sequence: zero in its padding.
fn store_outputs(conv: Convolution, place: Place, outputs: ptr<function, Outputs>) {
    for (var n = 0u; n < STEPS; n++) {
        let position = place.position + n * conv.dilation;
        if position < place.sequence.room {
            let row = place.sequence.first + position;
            let element = row * conv.y_stride + conv.y_offset + place.channel;
            if position < place.sequence.length {
                store_channels(element, (*outputs)[n]);
            } else {
                store_channels(element, Channels());
            }
        }
    }
}
