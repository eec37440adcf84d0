// Activations, by the numbers that calls name them with. All is decided by the bits of what comes in, since a device may take
// it that there are no NaN and no infinities: NaN stays, and what is far off is what the limit is.

const RELU = 1u;
const GELU = 2u;
const GELU_TANH = 3u;
const GLU = 4u;

const MAGNITUDE = 0x7fffffffu;
const INFINITE = 0x7f800000u;
// The bits of 16: below -16 both forms of a GELU are zero in f32, and above 16 nothing is taken off.
const FAR = 0x41800000u;

fn relu(values: vec4<f32>) -> vec4<f32> {
    let bits = bitcast<vec4<u32>>(values);
    let negative = (bits >= vec4<u32>(0x80000000u)) & (bits <= vec4<u32>(0xff800000u));
    return select(values, vec4<f32>(0.0), negative);
}

// 1 - Phi(a) = erfc(a / sqrt 2) / 2 = 2^(-1 - p(a)) for 0 <= a <= 16, with a polynomial p that was fitted to be off by as
// little as can be times the whole: by 0.14 roundoffs of 1 at most.
fn upper_normal(a: vec4<f32>) -> vec4<f32> {
    var series = vec4<f32>(2.8349114e-6);
    series = fma(series, a, vec4<f32>(-3.9377675e-5));
    series = fma(series, a, vec4<f32>(1.8618017e-4));
    series = fma(series, a, vec4<f32>(1.3693652e-4));
    series = fma(series, a, vec4<f32>(-7.0634205e-3));
    series = fma(series, a, vec4<f32>(5.249618e-2));
    series = fma(series, a, vec4<f32>(0.4592082));
    series = fma(series, a, vec4<f32>(1.1511052));
    return exp2(fma(-series, a, vec4<f32>(-1.0)));
}

// 1 / (1 + e^-x) of numbers with these signs and magnitudes, by the exponential of what is below zero, which cannot overflow.
fn sigmoid_of(negative: vec4<bool>, magnitude: vec4<f32>) -> vec4<f32> {
    let power = exp(-magnitude);
    return select(vec4<f32>(1.0), power, negative) / (1.0 + power);
}

// A GELU, by erf or by tanh: (1 + tanh z) / 2 is the sigmoid of 2 z.
fn gelu(values: vec4<f32>, by_tanh: bool) -> vec4<f32> {
    let bits = bitcast<vec4<u32>>(values);
    let sizes = bits & vec4<u32>(MAGNITUDE);
    let negative = bits > vec4<u32>(MAGNITUDE);
    let magnitude = bitcast<vec4<f32>>(min(sizes, vec4<u32>(FAR)));
    var phi: vec4<f32>;
    if by_tanh {
        // 2 sqrt(2 / pi), and that times 0.044715.
        let factor = fma(magnitude * magnitude, vec4<f32>(0.071354814), vec4<f32>(1.595769));
        phi = sigmoid_of(negative, magnitude * factor);
    } else {
        let upper = upper_normal(magnitude);
        phi = select(1.0 - upper, upper, negative);
    }
    let near = select(magnitude, -magnitude, negative) * phi;
    let is_number = sizes <= vec4<u32>(INFINITE);
    let far = select(values, vec4<f32>(0.0), negative & is_number);
    return select(near, far, sizes > vec4<u32>(FAR));
}

// What the gates of a GLU multiply.
fn sigmoid(gates: vec4<f32>) -> vec4<f32> {
    let bits = bitcast<vec4<u32>>(gates);
    let sizes = bits & vec4<u32>(MAGNITUDE);
    // e^-128 is zero.
    let magnitude = bitcast<vec4<f32>>(min(sizes, vec4<u32>(0x43000000u)));
    let values = sigmoid_of(bits > vec4<u32>(MAGNITUDE), magnitude);
    return select(values, gates, sizes > vec4<u32>(INFINITE));
}

// Of all but a GLU.
fn activate(activation: u32, values: vec4<f32>) -> vec4<f32> {
    switch activation {
        case RELU: {
            return relu(values);
        }
        case GELU, GELU_TANH: {
            return gelu(values, activation == GELU_TANH);
        }
        default: {
            return values;
        }
    }
}
