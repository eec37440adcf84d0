// Four outputs side by side from `column` on, of which those before `end` are there.
fn store_quad(element: u32, values: vec4<f32>, column: u32, end: u32) {
    if column + 1u < end {
        store_pair(element, values.xy);
    } else if column < end {
        store_one(element, values.x);
    }
    if column + 3u < end {
        store_pair(element + 2u, values.zw);
    } else if column + 2u < end {
        store_one(element + 2u, values.z);
    }
}
