//! Text in columns.

/// Rows as text: columns are as wide as their widest cell and two spaces apart; cells that are numbers stand at the
/// right of their column.
pub(super) fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..count).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| {
            let number = !cell.is_empty() && cell.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
            if number { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: rows of different lengths, with words and numbers.
    /// Guarantees: columns line up, numbers at the right, nothing trails.
    #[test]
    fn cells_line_up() {
        let rows = [vec!["name", "7", "x"], vec!["a", "1234", ""], vec!["b"]];
        let rows = rows.map(|row| row.into_iter().map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(columns(&rows), "name     7  x\na     1234\nb\n");
        assert_eq!(columns(&[]), "");
    }
}
