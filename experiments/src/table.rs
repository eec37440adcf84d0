//! Results as a table that is text on the screen and Markdown in a file.

use comfy_table::{Table, presets};

/// Rows below their heads.
pub fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(head);
    for row in rows {
        table.add_row(row);
    }
    table
}

/// The mean of numbers and how far they lie from it, in percent: `84.2 ± 0.7`. The deviation is that of a sample, and left out of a
/// single number. What diverged has none.
pub fn percent(numbers: &[f64]) -> String {
    if numbers.iter().any(|number| !number.is_finite()) {
        return "diverged".to_owned();
    }
    let count = numbers.len() as f64;
    let mean = numbers.iter().sum::<f64>() / count;
    if numbers.len() < 2 {
        return format!("{:.1}", 100.0 * mean);
    }
    let square = numbers.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (count - 1.0);
    format!("{:.1} ± {:.1}", 100.0 * mean, 100.0 * square.sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_told_with_their_spread() {
        assert_eq!(percent(&[0.5]), "50.0");
        assert_eq!(percent(&[0.5, f64::NAN]), "diverged");
        assert_eq!(percent(&[0.25, 0.75]), "50.0 ± 35.4");
        assert_eq!(table(&["a"], [vec!["1".to_owned()]]).to_string(), "| a |\n|---|\n| 1 |");
    }
}
