//! Servers made of nothing but a shell: they say every request in their log, and answer as the test wants it.

/// Runs `answer` for each connection to `port`, as a container's script.
fn serve(port: u16, answer: &str) -> String {
    format!(
        "cat > /tmp/answer <<'EOF'\n#!/bin/sh\n{answer}\nEOF\nchmod 755 /tmp/answer; trap 'exit 0' TERM INT; \
         nc -ll -p {port} -e /tmp/answer & while :; do wait $!; done"
    )
}

/// HTTP on that port: 200 to everything until there is a file `/tmp/broken`, then 500. The log has the request lines.
pub fn http(port: u16) -> String {
    let answer = "read -r line; echo \"$line\" > /proc/1/fd/1\n\
         while read -r header; do [ \"${#header}\" -gt 1 ] || break; done\n\
         code='200 OK'; [ ! -e /tmp/broken ] || code='500 Broken'\n\
         printf 'HTTP/1.0 %s\\r\\nContent-Length: 0\\r\\nConnection: close\\r\\n\\r\\n' \"$code\"";
    serve(port, answer)
}

/// Connections that are taken and said, and never answered.
pub fn tcp(port: u16) -> String {
    serve(port, "echo taken > /proc/1/fd/1; cat > /dev/null")
}

/// The gRPC health service, serving, on that port. A probe makes a connection for each question, so the answer is always
/// the same bytes; they are sent once the question is on its way.
pub fn grpc(port: u16) -> String {
    const STREAM: [u8; 4] = [0, 0, 0, 1];
    let frame = |kind: u8, flags: u8, stream: [u8; 4], content: &[u8]| {
        let length = u8::try_from(content.len()).expect("a short frame");
        [&[0, 0, length, kind, flags][..], &stream, content].concat()
    };
    // RFC 9113 and 7541: `:status: 200`, then the content type by its place in the static table.
    let head = [&[0x88, 0x0f, 0x10, 16][..], b"application/grpc"].concat();
    let end = [&[0, 11][..], b"grpc-status", &[1], b"0"].concat();
    let answer = [
        frame(4, 0, [0; 4], &[]),
        frame(4, 1, [0; 4], &[]),
        frame(1, 4, STREAM, &head),
        // SERVING in a message of two bytes.
        frame(0, 0, STREAM, &[0, 0, 0, 0, 2, 8, 1]),
        frame(1, 5, STREAM, &end),
    ];
    let octal: String = answer.concat().iter().map(|b| format!("\\{b:03o}")).collect();
    // More than the connection's preface and settings, less than those with the question.
    serve(
        port,
        &format!(
            "dd bs=1 count=90 of=/dev/null 2>/dev/null; printf '{octal}'; echo asked > /proc/1/fd/1; cat > /dev/null"
        ),
    )
}
