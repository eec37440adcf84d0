// Taps in the workgroup's memory, and their softmax.
//
// A row of taps (of one head, or of one head and token) is stored by quads: quad q of row p is at memory[q * rows + p], so
// that neighbouring invocations, which work on neighbouring rows, read neighbouring quads. A chunk holds as many quads of
// every row as there is room for. The operator fills it with logits (`fill`), and says which taps of a row are in
// range (`range_of`).

const LOWEST = -3.4028234e38;

const NONE = 0u;
const SOFTMAX = 1u;
const IN_RANGE = 2u;

// Which taps of all rows are in memory.
struct Chunk {
    rows: u32,
    first_quad: u32,
    quads: u32,
}

fn inside(chunk: Chunk, quad: u32, range: vec2<u32>) -> vec4<bool> {
    let taps = vec4<u32>(0u, 1u, 2u, 3u) + 4u * (chunk.first_quad + quad);
    return (taps >= vec4<u32>(range.x)) & (taps < vec4<u32>(range.y));
}

// The largest logit of a row, or `largest` if that is larger.
fn largest_of(chunk: Chunk, row: u32, range: vec2<u32>, largest: f32) -> f32 {
    var maximum = vec4<f32>(largest);
    for (var quad = 0u; quad < chunk.quads; quad++) {
        let logits = memory[quad * chunk.rows + row];
        maximum = max(maximum, select(vec4<f32>(LOWEST), logits, inside(chunk, quad, range)));
    }
    return max(max(maximum.x, maximum.y), max(maximum.z, maximum.w));
}

// The sum of a row's exponentials, added to `total`.
fn total_of(chunk: Chunk, row: u32, range: vec2<u32>, largest: f32, total: f32) -> f32 {
    var sums = vec4<f32>(0.0);
    for (var quad = 0u; quad < chunk.quads; quad++) {
        let exps = exp(memory[quad * chunk.rows + row] - largest);
        sums += select(vec4<f32>(0.0), exps, inside(chunk, quad, range));
    }
    return total + ((sums.x + sums.y) + (sums.z + sums.w));
}

// Puts the weights of a row in the place of its logits.
fn weigh(chunk: Chunk, row: u32, largest: f32, total: f32) {
    for (var quad = 0u; quad < chunk.quads; quad++) {
        let at = quad * chunk.rows + row;
        memory[at] = exp(memory[at] - largest) / total;
    }
}

struct Softmax {
    largest: f32,
    total: f32,
}

// What the weights of row `me` are normalised by, where the taps of a row come in several chunks of `quads` quads. There
// are then no more rows than invocations.
fn measure(me: u32, rows: u32, quads: u32, normalize: u32, width: u32) -> Softmax {
    var softmax = Softmax(LOWEST, 0.0);
    let all = (width + 3u) / 4u;
    if normalize == NONE || all <= quads {
        return softmax;
    }
    var range = vec2<u32>(0u, width);
    if normalize == IN_RANGE && me < rows {
        range = range_of(me);
    }
    for (var round = 0u; round < 2u; round++) {
        for (var first = 0u; first < all; first += quads) {
            let chunk = Chunk(rows, first, min(quads, all - first));
            workgroupBarrier();
            fill(me, chunk);
            workgroupBarrier();
            if me < rows {
                if round == 0u {
                    softmax.largest = largest_of(chunk, me, range, softmax.largest);
                } else {
                    softmax.total = total_of(chunk, me, range, softmax.largest, softmax.total);
                }
            }
        }
    }
    return softmax;
}

// Fills memory with a chunk of weights.
fn load_weights(me: u32, chunk: Chunk, normalize: u32, width: u32, softmax: Softmax) {
    workgroupBarrier();
    fill(me, chunk);
    workgroupBarrier();
    normalize_chunk(me, chunk, normalize, width, softmax);
    workgroupBarrier();
}

// Puts weights in the place of logits: with what `measure` found, or from the chunk where it holds all taps.
fn normalize_chunk(me: u32, chunk: Chunk, normalize: u32, width: u32, softmax: Softmax) {
    if normalize == NONE {
        return;
    }
    if 4u * chunk.quads < width {
        if me < chunk.rows {
            weigh(chunk, me, softmax.largest, softmax.total);
        }
        return;
    }
    for (var row = me; row < chunk.rows; row += WORKGROUP) {
        var range = vec2<u32>(0u, width);
        if normalize == IN_RANGE {
            range = range_of(row);
        }
        let largest = largest_of(chunk, row, range, LOWEST);
        weigh(chunk, row, largest, total_of(chunk, row, range, largest, 0.0));
    }
}
