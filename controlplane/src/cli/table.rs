//! Tables of text: columns as wide as their widest cell, two blanks apart, numbers to the right.

/// Where a column's cells stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A table that is rendered once it is whole.
#[derive(Debug)]
pub(super) struct Table<const N: usize> {
    columns: [(&'static str, Align); N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    /// A table with these headings and no rows.
    pub(super) fn new(columns: [(&'static str, Align); N]) -> Self {
        let rows = Vec::new();
        Self { columns, rows }
    }

    /// Adds a row.
    pub(super) fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells);
    }

    /// Whether no row was added.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as lines, each begun by `indent` blanks.
    pub(super) fn render(&self, indent: usize) -> String {
        let headings = self.columns.map(|(heading, _)| heading.to_uppercase());
        let mut widths = headings.each_ref().map(|heading| heading.chars().count());
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        for cells in std::iter::once(&headings).chain(&self.rows) {
            let mut line = " ".repeat(indent);
            for ((cell, width), (_, align)) in cells.iter().zip(widths).zip(self.columns) {
                match align {
                    Align::Left => line.push_str(&format!("{cell:<width$}  ")),
                    Align::Right => line.push_str(&format!("{cell:>width$}  ")),
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new([("name", Align::Left), ("packets", Align::Right)]);
        table.row(["a-long-name".into(), "7".into()]);
        table.row(["b".into(), "12345678".into()]);
        assert_eq!(
            table.render(2),
            "  NAME          PACKETS\n  \
               a-long-name         7\n  \
               b            12345678\n"
        );
    }
}
