// An invocation works on one channel: numbers of 32 bits, or of 16 bits where rows do not begin on whole words.

const CHANNELS = 1u;
alias Channels = f32;

// The channel at `element`, from the word that holds it.
fn channels_in(word: u32, element: u32, kind: u32) -> Channels {
    return element_in(word, element, kind);
}

// One number for each channel: of the head of the first, and of the second.
fn channels_of(first: f32, second: f32) -> Channels {
    return first;
}

fn first_of(channels: Channels) -> f32 {
    return channels;
}

// Zero where there is no second channel.
fn second_of(channels: Channels) -> f32 {
    return 0.0;
}

fn store_channels(element: u32, value: Channels) {
    store_one(element, value);
}
