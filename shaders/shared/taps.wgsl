// Taps in the workgroup's memory, and their softmax.
//
// A row of taps (of one head, or of one head and token) is stored by quads: quad q of row p is at memory[q * rows + p], so
// that neighbouring invocations, which work on neighbouring rows, read neighbouring quads. A chunk holds as many quads of
// every row as there is room for. The operator fills it with logits (`fill`), and says which taps of a row are in
// range (`range_of`) and what dropout multiplies them by (`factors_of`).

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

// Several invocations share a row, where there are more of them than rows: `among` of them, which are number `share` each,
// and no more than a chunk has quads.
struct Share {
    row: u32,
    share: u32,
    among: u32,
}

fn share_of(me: u32, rows: u32, quads: u32) -> Share {
    let among = clamp(WORKGROUP / rows, 1u, quads);
    return Share(me / among, me % among, among);
}

// What the invocations of a row tell one another.
var<workgroup> told: array<f32, WORKGROUP>;

// The largest logit of the invocation's share of a row, or `largest` if that is larger.
fn largest_of(chunk: Chunk, share: Share, range: vec2<u32>, largest: f32) -> f32 {
    var maximum = vec4<f32>(largest);
    for (var quad = share.share; quad < chunk.quads; quad += share.among) {
        let logits = memory[quad * chunk.rows + share.row];
        maximum = max(maximum, select(vec4<f32>(LOWEST), logits, inside(chunk, quad, range)));
    }
    return max(max(maximum.x, maximum.y), max(maximum.z, maximum.w));
}

// The sum of its share's exponentials, added to `total`.
fn total_of(chunk: Chunk, share: Share, range: vec2<u32>, largest: f32, total: f32) -> f32 {
    var sums = vec4<f32>(0.0);
    for (var quad = share.share; quad < chunk.quads; quad += share.among) {
        let exps = exp(memory[quad * chunk.rows + share.row] - largest);
        sums += select(vec4<f32>(0.0), exps, inside(chunk, quad, range));
    }
    return total + ((sums.x + sums.y) + (sums.z + sums.w));
}

// Puts weights in the place of its share's logits.
fn weigh(chunk: Chunk, share: Share, softmax: Softmax) {
    for (var quad = share.share; quad < chunk.quads; quad += share.among) {
        let at = quad * chunk.rows + share.row;
        memory[at] = exp(memory[at] - softmax.largest) / softmax.total;
    }
}

// Where the invocations of a row end. The last of the workgroup may have no row, and be fewer than share one.
fn end_of(me: u32, share: Share) -> u32 {
    return min(me - share.share + share.among, WORKGROUP);
}

// The largest of the numbers of a row's invocations. All invocations of the workgroup must come here.
fn largest_told(me: u32, share: Share, number: f32) -> f32 {
    told[me] = number;
    workgroupBarrier();
    var largest = number;
    for (var i = me - share.share; i < end_of(me, share); i++) {
        largest = max(largest, told[i]);
    }
    workgroupBarrier();
    return largest;
}

// Their sum.
fn total_told(me: u32, share: Share, number: f32) -> f32 {
    told[me] = number;
    workgroupBarrier();
    var total = 0.0;
    for (var i = me - share.share; i < end_of(me, share); i++) {
        total += told[i];
    }
    workgroupBarrier();
    return total;
}

struct Softmax {
    largest: f32,
    total: f32,
    // Quads of the chunks that it was measured in, which decide the row that an invocation has a share of; 0 where it was
    // not.
    quads: u32,
}

fn range_to_use(row: u32, normalize: u32, width: u32) -> vec2<u32> {
    if normalize == IN_RANGE {
        return range_of(row);
    }
    return vec2<u32>(0u, width);
}

// What the weights of the invocation's row are normalised by, where the taps of a row come in several chunks of `quads`
// quads. There are then no more rows than invocations.
fn measure(me: u32, rows: u32, quads: u32, normalize: u32, width: u32) -> Softmax {
    if normalize == NONE || (width + 3u) / 4u <= quads {
        return Softmax(LOWEST, 0.0, 0u);
    }
    return measure_rows(me, rows, quads, normalize, width);
}

// The same for all taps, one chunk or several.
fn measure_rows(me: u32, rows: u32, quads: u32, normalize: u32, width: u32) -> Softmax {
    var softmax = Softmax(LOWEST, 0.0, quads);
    let all = (width + 3u) / 4u;
    let share = share_of(me, rows, quads);
    let works = share.row < rows;
    var range = vec2<u32>(0u, 0u);
    if works {
        range = range_to_use(share.row, normalize, width);
    }
    for (var round = 0u; round < 2u; round++) {
        for (var first = 0u; first < all; first += quads) {
            let chunk = Chunk(rows, first, min(quads, all - first));
            workgroupBarrier();
            // A chunk that holds all taps is there still.
            if round == 0u || all > quads {
                fill(me, chunk);
            }
            workgroupBarrier();
            if works && round == 0u {
                softmax.largest = largest_of(chunk, share, range, softmax.largest);
            } else if works {
                softmax.total = total_of(chunk, share, range, softmax.largest, softmax.total);
            }
        }
        if round == 0u {
            softmax.largest = largest_told(me, share, softmax.largest);
        } else {
            softmax.total = total_told(me, share, softmax.total);
        }
    }
    return softmax;
}

// Fills memory with a chunk of weights.
fn load_weights(
    me: u32, chunk: Chunk, normalize: u32, width: u32, softmax: Softmax, dropout: Dropout,
) {
    workgroupBarrier();
    fill(me, chunk);
    workgroupBarrier();
    make_weights(me, chunk, normalize, width, softmax, dropout);
}

// Puts weights in the place of the logits of a chunk, of which some are dropped.
fn make_weights(
    me: u32, chunk: Chunk, normalize: u32, width: u32, softmax: Softmax, dropout: Dropout,
) {
    normalize_chunk(me, chunk, normalize, width, softmax);
    workgroupBarrier();
    if DROPOUT == 0u || dropout.threshold == 0u {
        return;
    }
    for (var i = me; i < chunk.rows * chunk.quads; i += WORKGROUP) {
        let factors = factors_of(i % chunk.rows, chunk.first_quad + i / chunk.rows);
        memory[i] = select(vec4<f32>(0.0), memory[i] * factors, factors > vec4<f32>(0.0));
    }
    workgroupBarrier();
}

// Puts weights in the place of logits: with what `measure` found, or from the chunk where it holds all taps.
fn normalize_chunk(me: u32, chunk: Chunk, normalize: u32, width: u32, softmax: Softmax) {
    if normalize == NONE {
        return;
    }
    if chunk.rows > WORKGROUP {
        // More rows than invocations: each has whole rows to itself.
        for (var row = me; row < chunk.rows; row += WORKGROUP) {
            let range = range_to_use(row, normalize, width);
            let share = Share(row, 0u, 1u);
            let largest = largest_of(chunk, share, range, LOWEST);
            weigh(chunk, share, Softmax(largest, total_of(chunk, share, range, largest, 0.0), 0u));
        }
        return;
    }
    let share = share_of(me, chunk.rows, max(chunk.quads, softmax.quads));
    let works = share.row < chunk.rows;
    var found = softmax;
    if 4u * chunk.quads >= width {
        var range = vec2<u32>(0u, 0u);
        if works {
            range = range_to_use(share.row, normalize, width);
            found.largest = largest_of(chunk, share, range, LOWEST);
        }
        found.largest = largest_told(me, share, found.largest);
        if works {
            found.total = total_of(chunk, share, range, found.largest, 0.0);
        }
        found.total = total_told(me, share, found.total);
    }
    if works {
        weigh(chunk, share, found);
    }
}
