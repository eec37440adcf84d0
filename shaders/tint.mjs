// Every kernel through Tint, the compiler of Chrome, which is stricter than naga (uniform control flow, precedence of
// operators). It needs no GPU. In an empty folder:
//
//     npm install webgpu
//     LIGHTSPAN_WRITE_KERNELS=$PWD/kernels cargo test --manifest-path .../Cargo.toml --features wgpu --lib kernels
//     cp .../shaders/tint.mjs . && node tint.mjs kernels

import { readdirSync, readFileSync } from 'node:fs';
import { create } from 'webgpu';

const folder = process.argv[2];
// Kept, or it would be collected with the work still going on.
const gpu = create(['backend=null']);
const adapter = await gpu.requestAdapter();
const device = await adapter.requestDevice();
const files = readdirSync(folder);
let refused = 0;
for (const file of files) {
    device.pushErrorScope('validation');
    const module = device.createShaderModule({ code: readFileSync(`${folder}/${file}`, 'utf8') });
    const { messages } = await module.getCompilationInfo();
    const error = await device.popErrorScope();
    const told = messages.filter((message) => message.type !== 'info');
    if (error || told.length > 0) {
        refused += 1;
        console.log(`${file}: ${told.map(({ lineNum, message }) => `line ${lineNum}: ${message}`).join('\n    ')}`);
    }
}
console.log(`${files.length} kernels, ${refused} refused`);
process.exit(files.length > 0 && refused === 0 ? 0 : 1);
