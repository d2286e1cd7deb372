//! The options of a log, one by one.

use std::fs::File;
use std::io::Write;

use bytes::BytesMut;
use http::StatusCode;
use jiff::Timestamp;

use super::cri::{Formatter, Which, head};
use super::*;

fn at(second: u32) -> String {
    format!("2026-01-01T00:00:{second:02}.000000000Z")
}

fn parse(query: &str) -> Result<Options, Refusal> {
    let uri = format!("http://x/?{query}").parse().unwrap();
    Options::parse(&Query::of(&uri), "2026-01-01T00:01:00Z".parse().unwrap())
}

/// Shows a log of entries `(second, stream, tag, text)`, read in steps.
fn shown(entries: &[(u32, &str, &str, &str)], query: &str, step: usize) -> String {
    let log: String =
        entries.iter().map(|(s, stream, tag, text)| format!("{} {stream} {tag} {text}\n", at(*s))).collect();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    File::create(&path).unwrap().write_all(log.as_bytes()).unwrap();
    let options = parse(query).unwrap();
    let mut formatter = Formatter::new(options.which, options.since, options.timestamps, options.limit);
    let mut out = BytesMut::new();
    for mut file in start(&path, options.tail, options.which).unwrap() {
        let mut rest = Vec::new();
        file.file.read_to_end(&mut rest).unwrap();
        for chunk in rest.chunks(step) {
            if formatter.push(chunk, &mut out).is_break() {
                break;
            }
        }
    }
    String::from_utf8(out.to_vec()).unwrap()
}

#[test]
fn options_choose_what_is_shown() {
    let log = [
        (1, "stdout", "F", "a"),
        (2, "stderr", "F", "bad"),
        (3, "stdout", "P", "lo"),
        (4, "stdout", "P", "ng "),
        (5, "stdout", "F", "line"),
        (6, "stdout", "F", ""),
        (7, "stderr", "F", "worse"),
    ];
    let (t1, t3, t6) = (at(1), at(3), at(6));
    let stamped = format!("{t1} a\n{t3} long line\n{t6} \n");
    for (query, want) in [
        ("", "a\nbad\nlong line\n\nworse\n"),
        ("stream=All", "a\nbad\nlong line\n\nworse\n"),
        ("stream=Stdout", "a\nlong line\n\n"),
        ("stream=Stderr", "bad\nworse\n"),
        ("stream=Stdout&timestamps=true", &stamped),
        ("tailLines=0", ""),
        ("tailLines=1", "worse\n"),
        ("tailLines=2", "\nworse\n"),
        ("tailLines=3", "long line\n\nworse\n"),
        ("tailLines=4", "bad\nlong line\n\nworse\n"),
        ("tailLines=99", "a\nbad\nlong line\n\nworse\n"),
        ("tailLines=1&stream=Stderr", "worse\n"),
        ("tailLines=2&stream=Stdout", "long line\n\n"),
        ("sinceTime=2026-01-01T00:00:06Z", "\nworse\n"),
        ("sinceTime=2026-01-01T01:00:06%2B01:00", "\nworse\n"),
        ("sinceSeconds=53", "worse\n"),
        ("sinceSeconds=99999999999999", "a\nbad\nlong line\n\nworse\n"),
        ("limitBytes=4", "a\nba"),
        ("limitBytes=1000", "a\nbad\nlong line\n\nworse\n"),
    ] {
        for step in [1, 7, 4096] {
            assert_eq!(shown(&log, query, step), want, "{query} in steps of {step}");
        }
    }
}

#[test]
fn a_tail_is_found_over_many_blocks() {
    let long = "x".repeat(150_000);
    let mut log = vec![(1, "stdout", "F", "first"), (2, "stdout", "F", long.as_str())];
    log.extend((0..5000).map(|_| (3, "stdout", "F", "y")));
    assert_eq!(shown(&log, "tailLines=5000", 65_536), "y\n".repeat(5000));
    assert_eq!(shown(&log, "tailLines=5001", 65_536).len(), 150_001 + 10_000);
    assert_eq!(shown(&log, "tailLines=5002", 65_536).len(), 6 + 150_001 + 10_000);
}

#[test]
fn every_alignment_of_a_tail_to_blocks_is_right() {
    // Lines of a fixed length walk over the borders of blocks as the padding grows.
    for pad in 0..60 {
        let first = "p".repeat(pad);
        let mut log = vec![(1, "stdout", "F", first.as_str())];
        log.extend((0..3000).map(|_| (3, "stdout", "F", "z")));
        assert_eq!(shown(&log, "tailLines=2999", 65_536).len(), 2 * 2999, "padding {pad}");
    }
}

#[test]
fn an_unfinished_line_counts_as_one() {
    let log = [(1, "stdout", "F", "a"), (2, "stdout", "F", "b"), (3, "stdout", "P", "c"), (4, "stdout", "P", "d")];
    assert_eq!(shown(&log, "tailLines=1", 4096), "cd");
    assert_eq!(shown(&log, "tailLines=2", 4096), "b\ncd");
}

#[test]
fn what_is_no_entry_is_left_out() {
    for line in ["", "nonsense", "2026 stdout", "2026 stdout X text", "2026 stdin F text"] {
        assert_eq!(head(line.as_bytes()), None, "{line:?}");
    }
    let found = head(b"T stderr P:more some text").unwrap();
    assert_eq!((found.time, found.stderr, found.full, found.text), ("T", true, false, 16));
    let mut formatter = Formatter::new(Which::All, None, false, None);
    let mut out = BytesMut::new();
    let _ = formatter.push(&vec![b'x'; 3 << 20], &mut out);
    let _ = formatter.push(b"\nT stdout F ok\n", &mut out);
    assert_eq!(out, "ok\n");
}

#[test]
fn wrong_options_are_refused() {
    for (query, code) in [
        ("tailLines=-1", 422),
        ("tailLines=x", 422),
        ("sinceSeconds=0", 422),
        ("limitBytes=0", 422),
        ("sinceTime=yesterday", 422),
        ("sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z", 422),
        ("stream=stdout", 422),
        ("follow=perhaps", 400),
    ] {
        let refused = parse(query).unwrap_err();
        assert_eq!(refused.code, StatusCode::from_u16(code).unwrap(), "{query}");
    }
    assert_eq!(parse("tailLines=").unwrap(), Options::default());
}

#[test]
fn since_is_counted_from_now() {
    let since: Timestamp = "2026-01-01T00:00:30Z".parse().unwrap();
    assert_eq!(parse("sinceSeconds=30").unwrap().since, Some(since));
}
