// An invocation works on two channels: the 16-bit numbers of one word.

const CHANNELS = 2u;
alias Channels = vec2<f32>;

// The channels at `element`, which is even, and after it, from the word that holds both.
fn channels_in(word: u32, element: u32, kind: u32) -> Channels {
    return pair_in(word, kind);
}

// One number for each channel: of the head of the first, and of the second.
fn channels_of(first: f32, second: f32) -> Channels {
    return vec2<f32>(first, second);
}

fn first_of(channels: Channels) -> f32 {
    return channels.x;
}

fn second_of(channels: Channels) -> f32 {
    return channels.y;
}

fn store_channels(element: u32, value: Channels) {
    store_pair(element, value);
}
