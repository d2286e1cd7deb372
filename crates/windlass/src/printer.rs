//! Tables as kubectl and docker print them: upper-case headings, columns padded by three spaces.

/// Prints rows under headings on standard output.
pub fn table(headings: &[&str], rows: &[Vec<String>]) {
    print!("{}", render(headings, rows));
}

/// The text of [`table`].
pub fn render(headings: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = headings.iter().map(|h| h.len()).collect();
    for row in rows {
        for (w, cell) in widths.iter_mut().zip(row) {
            *w = (*w).max(cell.chars().count());
        }
    }
    let line = |cells: Vec<&str>| {
        let mut out = String::new();
        for (i, (cell, w)) in cells.iter().zip(&widths).enumerate() {
            out.push_str(cell);
            if i + 1 < widths.len() {
                out.extend(std::iter::repeat_n(' ', w + 3 - cell.chars().count()));
            }
        }
        out.trim_end().to_owned() + "\n"
    };
    let mut out = line(headings.to_vec());
    for row in rows {
        out.push_str(&line(row.iter().map(String::as_str).collect()));
    }
    out
}

/// A size as docker prints it: three digits, powers of 1000.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    match (unit, value) {
        (0, v) => format!("{v:.0}B"),
        (u, v) if v >= 100.0 => format!("{v:.0}{}", UNITS[u]),
        (u, v) if v >= 10.0 => format!("{v:.1}{}", UNITS[u]),
        (u, v) => format!("{v:.2}{}", UNITS[u]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let text = render(&["NAME", "READY"], &[vec!["a-long-name".into(), "1/1".into()]]);
        assert_eq!(text, "NAME          READY\na-long-name   1/1\n");
    }

    #[test]
    fn sizes_read_like_dockers() {
        assert_eq!(size(0), "0B");
        assert_eq!(size(1_234), "1.23kB");
        assert_eq!(size(12_345_678), "12.3MB");
        assert_eq!(size(123_456_789), "123MB");
    }
}
