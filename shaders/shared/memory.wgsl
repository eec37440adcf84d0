// The workgroup's memory, in quads of numbers: one pool for all phases of a kernel, which barriers separate.

var<workgroup> memory: array<vec4<f32>, MEMORY>;
