//! Text armour (RFC 7468).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Characters of a line.
const LINE: usize = 64;

/// The labels and contents of all blocks of a text, in order. What is no block is skipped.
pub(super) fn read(text: &str) -> Vec<(String, Vec<u8>)> {
    let mut blocks = Vec::new();
    let mut open: Option<(&str, String)> = None;
    for line in text.lines().map(str::trim) {
        if let Some(label) = line.strip_prefix("-----BEGIN ").and_then(|l| l.strip_suffix("-----")) {
            open = Some((label, String::new()));
        } else if let Some(label) = line.strip_prefix("-----END ").and_then(|l| l.strip_suffix("-----")) {
            let whole = open.take().filter(|(begun, _)| *begun == label);
            blocks.extend(whole.and_then(|(label, body)| Some((label.to_owned(), STANDARD.decode(body).ok()?))));
        } else if let Some((_, body)) = &mut open {
            body.push_str(line);
        }
    }
    blocks
}

/// One block.
pub(super) fn write(label: &str, content: &[u8]) -> String {
    let body = STANDARD.encode(content);
    let mut text = format!("-----BEGIN {label}-----\n");
    for at in (0..body.len()).step_by(LINE) {
        text.push_str(&body[at..body.len().min(at + LINE)]);
        text.push('\n');
    }
    text + &format!("-----END {label}-----\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_read_as_they_were_written() {
        let text = format!("a comment\n{}{}", write("A", &[7; 100]), write("B C", b""));
        assert_eq!(read(&text), [("A".to_owned(), vec![7; 100]), ("B C".to_owned(), Vec::new())]);
        assert!(text.lines().all(|line| line.len() <= LINE));
        assert!(read("-----BEGIN A-----\nYQ==\n-----END B-----\n-----BEGIN A-----\nYQ==\n").is_empty());
    }
}
