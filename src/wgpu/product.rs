//! How tiles of matrix products are divided: see `shaders/shared/blocks.wgsl`.

use crate::wgpu::shader::{DEPTH, MEMORY, WORKGROUP};

/// Row and column groups of a tile of a product, and the quads of rows in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Blocks {
    pub(crate) row_quads: usize,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
}

impl Blocks {
    /// For `rows` rows (of a tile) and `outputs` columns: as many columns as invocations and memory allow, up to 64
    /// beside 64 rows or more.
    pub(crate) fn new(row_quads: usize, rows: usize, outputs: usize) -> Self {
        let rows = rows.div_ceil(4 * row_quads);
        // Rows and columns of one stage, each with a quad to spare.
        let room = MEMORY / DEPTH - 2 - row_quads * rows;
        Blocks { row_quads, rows, columns: (WORKGROUP / rows).min(room).min(outputs.div_ceil(4)) }
    }

    /// Rows of a tile.
    pub(crate) fn tile_rows(self) -> usize {
        4 * self.row_quads * self.rows
    }

    /// Columns of a tile.
    pub(crate) fn tile_columns(self) -> usize {
        4 * self.columns
    }
}
