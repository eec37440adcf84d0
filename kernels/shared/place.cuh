// Where the numbers of rows lie in the block's memory, so that eight of them are read together without meeting a bank twice.
//
// Rows follow one another without a gap. Eight numbers are read together, those of eight rows at a time (`ldmatrix`, 16
// bits) or of four (32 bits). So that these lie on different banks, the eights of a row change places: number n of a row is
// at byte (n * size) ^ turn(row), for rows that begin at multiples of their bytes.
#pragma once

// For rows of WIDTH numbers. Turns of the bits of a row number turn together: turn(a | b) = turn(a) ^ turn(b).
template <class Element, unsigned WIDTH>
__device__ constexpr unsigned turn(unsigned row) {
    constexpr unsigned EIGHT = 8 * sizeof(Element);
    constexpr unsigned EIGHTS = WIDTH / 8;
    // Rows that fill the banks once.
    constexpr unsigned ROWS = EIGHTS * EIGHT < 128 ? 128 / (EIGHTS * EIGHT) : 1;
    return row / ROWS % EIGHTS * EIGHT;
}

// Bytes from a slab's first to number `number` of a row.
template <class Element, unsigned WIDTH>
__device__ constexpr unsigned place(unsigned row, unsigned number) {
    return row * unsigned(WIDTH * sizeof(Element)) + (number * unsigned(sizeof(Element)) ^ turn<Element, WIDTH>(row));
}
