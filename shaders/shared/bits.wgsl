// Numbers that are only moved: whole words, or with HALVES the 16-bit numbers in them.

// The word that holds a number.
fn word_with(number: u32) -> u32 {
    if HALVES == 1u {
        return number >> 1u;
    }
    return number;
}

// A word, or the half of it that is the number.
fn bits_of(word: u32, number: u32) -> u32 {
    if HALVES == 1u {
        return (word >> ((number & 1u) * 16u)) & 0xffffu;
    }
    return word;
}
