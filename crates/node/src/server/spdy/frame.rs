//! The frames of SPDY/3.1 (sections 2.2 and 2.6), as bytes and as values. No IO here.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::SpdyError;

const VERSION: u16 = 3;
const HEAD: usize = 8;
/// Bytes of a control frame at most, without its head.
const CONTROL_MAX: usize = 64 << 10;
/// Data frames are handed on in pieces of this size, so that a large one needs no more memory than a small one.
pub const PIECE: usize = 32 << 10;
const STREAM: u32 = 0x7fff_ffff;
const FIN: u8 = 1;

/// Why a stream is reset (section 2.6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reset {
    /// The peer broke the protocol.
    Protocol = 1,
    /// No room for another stream.
    Refused = 3,
    /// Not wanted any more.
    Cancel = 5,
}

/// A frame. Header blocks are compressed as they came: only in order can they be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A stream begins.
    SynStream {
        /// The new stream.
        id: u32,
        /// The sender writes nothing to it.
        fin: bool,
        /// Its headers.
        block: Bytes,
    },
    /// It is accepted.
    SynReply {
        /// The stream.
        id: u32,
        /// The sender writes nothing to it.
        fin: bool,
        /// More headers.
        block: Bytes,
    },
    /// It is over, both ways.
    RstStream {
        /// The stream.
        id: u32,
        /// Why.
        status: u32,
    },
    /// Settings of the connection; none matters here.
    Settings,
    /// To be sent back.
    Ping {
        /// Odd: from the client.
        id: u32,
    },
    /// The peer takes no more streams.
    GoAway {
        /// The last it took.
        last: u32,
        /// Why.
        status: u32,
    },
    /// More headers.
    Headers {
        /// The stream.
        id: u32,
        /// The sender writes no more to it.
        fin: bool,
        /// The headers.
        block: Bytes,
    },
    /// So many more bytes may be sent.
    WindowUpdate {
        /// The stream; 0 is the connection.
        id: u32,
        /// Bytes.
        delta: u32,
    },
    /// Bytes of a stream; a piece of a frame carries `fin` only if it is the last.
    Data {
        /// The stream.
        id: u32,
        /// The sender writes no more to it.
        fin: bool,
        /// The bytes.
        data: Bytes,
    },
    /// A control frame unknown here, to be ignored.
    Unknown {
        /// Its type.
        kind: u16,
    },
}

/// Cuts bytes into frames. Pure: the same bytes give the same frames however they are split over calls (large data
/// frames may come in other pieces).
#[derive(Debug, Default)]
pub struct Decoder {
    data: Option<Open>,
}

/// A data frame of which bytes are still to come.
#[derive(Debug)]
struct Open {
    id: u32,
    fin: bool,
    left: usize,
}

impl Decoder {
    /// Takes the next frame off `buf`; `None` when more bytes are needed.
    ///
    /// # Errors
    /// The bytes are not SPDY/3.1, or beyond a limit; the connection cannot go on.
    pub fn next(&mut self, buf: &mut BytesMut) -> Result<Option<Frame>, SpdyError> {
        if let Some(open) = self.data.take() {
            return Ok(self.piece(open, buf));
        }
        let Some(head) = buf.first_chunk::<HEAD>() else { return Ok(None) };
        let word = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let flags = head[4];
        let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
        if word & !STREAM == 0 {
            buf.advance(HEAD);
            if word == 0 {
                return Err(SpdyError::Malformed("data frame"));
            }
            return Ok(self.piece(Open { id: word, fin: flags & FIN != 0, left: length }, buf));
        }
        let version = (word >> 16) as u16 & 0x7fff;
        if version != VERSION {
            return Err(SpdyError::Version(version));
        }
        if length > CONTROL_MAX {
            return Err(SpdyError::FrameTooLarge(length));
        }
        if buf.len() < HEAD + length {
            return Ok(None);
        }
        buf.advance(HEAD);
        control(word as u16, flags, buf.split_to(length).freeze()).map(Some)
    }

    fn piece(&mut self, open: Open, buf: &mut BytesMut) -> Option<Frame> {
        let Open { id, fin, left } = open;
        let take = left.min(buf.len()).min(PIECE);
        if take == 0 && left > 0 {
            self.data = Some(open);
            return None;
        }
        let left = left - take;
        if left > 0 {
            self.data = Some(Open { id, fin, left });
        }
        Some(Frame::Data { id, fin: fin && left == 0, data: buf.split_to(take).freeze() })
    }
}

fn word(body: &mut Bytes, name: &'static str) -> Result<u32, SpdyError> {
    if body.len() < 4 {
        return Err(SpdyError::Malformed(name));
    }
    Ok(body.get_u32())
}

fn control(kind: u16, flags: u8, mut body: Bytes) -> Result<Frame, SpdyError> {
    let fin = flags & FIN != 0;
    let b = &mut body;
    let frame = match kind {
        1 => {
            let id = word(b, "SYN_STREAM")? & STREAM;
            let _associated = word(b, "SYN_STREAM")?;
            if b.len() < 2 {
                return Err(SpdyError::Malformed("SYN_STREAM"));
            }
            b.advance(2);
            Frame::SynStream { id, fin, block: body }
        }
        2 => Frame::SynReply { id: word(b, "SYN_REPLY")? & STREAM, fin, block: body },
        3 => Frame::RstStream { id: word(b, "RST_STREAM")? & STREAM, status: word(b, "RST_STREAM")? },
        4 => Frame::Settings,
        6 => Frame::Ping { id: word(b, "PING")? },
        7 => Frame::GoAway { last: word(b, "GOAWAY")? & STREAM, status: word(b, "GOAWAY")? },
        8 => Frame::Headers { id: word(b, "HEADERS")? & STREAM, fin, block: body },
        9 => Frame::WindowUpdate { id: word(b, "WINDOW_UPDATE")? & STREAM, delta: word(b, "WINDOW_UPDATE")? & STREAM },
        kind => Frame::Unknown { kind },
    };
    Ok(frame)
}

impl Frame {
    /// Appends the frame's bytes to `out`. Data longer than a piece becomes several frames.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Frame::SynStream { id, fin, block } => {
                head(out, 1, *fin, 10 + block.len());
                out.put_u32(*id);
                out.put_slice(&[0; 6]);
                out.put_slice(block);
            }
            Frame::SynReply { id, fin, block } => named(out, 2, *fin, *id, block),
            Frame::Headers { id, fin, block } => named(out, 8, *fin, *id, block),
            Frame::RstStream { id, status } => pair(out, 3, *id, *status),
            Frame::GoAway { last, status } => pair(out, 7, *last, *status),
            Frame::WindowUpdate { id, delta } => pair(out, 9, *id, *delta),
            Frame::Settings => {
                head(out, 4, false, 4);
                out.put_u32(0);
            }
            Frame::Ping { id } => {
                head(out, 6, false, 4);
                out.put_u32(*id);
            }
            Frame::Data { id, fin, data } => {
                let mut rest = &data[..];
                loop {
                    let (piece, tail) = rest.split_at(rest.len().min(PIECE));
                    out.put_u32(*id & STREAM);
                    out.put_u32(u32::from(*fin && tail.is_empty()) << 24 | piece.len() as u32);
                    out.put_slice(piece);
                    rest = tail;
                    if rest.is_empty() {
                        break;
                    }
                }
            }
            Frame::Unknown { kind } => head(out, *kind, false, 0),
        }
    }
}

fn head(out: &mut BytesMut, kind: u16, fin: bool, length: usize) {
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    out.put_u32(u32::from(fin) << 24 | length as u32);
}

fn named(out: &mut BytesMut, kind: u16, fin: bool, id: u32, block: &Bytes) {
    head(out, kind, fin, 4 + block.len());
    out.put_u32(id);
    out.put_slice(block);
}

fn pair(out: &mut BytesMut, kind: u16, first: u32, second: u32) {
    head(out, kind, false, 8);
    out.put_u32(first);
    out.put_u32(second);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(bytes: &[u8], step: usize) -> Result<Vec<Frame>, SpdyError> {
        let (mut decoder, mut buf, mut frames) = (Decoder::default(), BytesMut::new(), Vec::new());
        for chunk in bytes.chunks(step.max(1)) {
            buf.extend_from_slice(chunk);
            while let Some(frame) = decoder.next(&mut buf)? {
                frames.push(frame);
            }
        }
        Ok(frames)
    }

    #[test]
    fn every_frame_reads_back_as_written() {
        let block = Bytes::from_static(b"block");
        let frames = [
            Frame::SynStream { id: 1, fin: true, block: block.clone() },
            Frame::SynReply { id: 1, fin: false, block: block.clone() },
            Frame::Headers { id: 3, fin: true, block: block.clone() },
            Frame::RstStream { id: 5, status: Reset::Cancel as u32 },
            Frame::Settings,
            Frame::Ping { id: 7 },
            Frame::GoAway { last: 9, status: 0 },
            Frame::WindowUpdate { id: 0, delta: 65_536 },
            Frame::Data { id: 1, fin: false, data: block },
            Frame::Data { id: 1, fin: true, data: Bytes::new() },
            Frame::Unknown { kind: 77 },
        ];
        let mut bytes = BytesMut::new();
        frames.iter().for_each(|frame| frame.encode(&mut bytes));
        assert_eq!(all(&bytes, bytes.len()).unwrap(), frames);
    }

    #[test]
    fn a_large_data_frame_comes_in_pieces_and_ends_once() {
        let mut bytes = BytesMut::new();
        bytes.put_u32(1);
        bytes.put_u32(1 << 24 | 100_000);
        bytes.put_bytes(b'x', 100_000);
        let pieces: Vec<(usize, bool)> = all(&bytes, bytes.len())
            .unwrap()
            .into_iter()
            .map(|frame| match frame {
                Frame::Data { id: 1, fin, data } => (data.len(), fin),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(pieces, [(PIECE, false), (PIECE, false), (PIECE, false), (100_000 - 3 * PIECE, true)]);
    }

    #[test]
    fn a_control_frame_beyond_the_limit_is_refused_before_its_bytes_come() {
        let mut buf = BytesMut::from(&[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff][..]);
        assert!(matches!(Decoder::default().next(&mut buf), Err(SpdyError::FrameTooLarge(_))));
    }

    #[test]
    fn other_versions_are_refused() {
        let mut buf = BytesMut::from(&[0x80, 2, 0, 1, 0, 0, 0, 0][..]);
        assert!(matches!(Decoder::default().next(&mut buf), Err(SpdyError::Version(2))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused_alike_however_split(
            bytes in proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(0x80), Just(3), any::<u8>()], 0..300),
            step in 1usize..40,
        ) {
            let whole = all(&bytes, bytes.len()).map(joined).map_err(|e| e.to_string());
            let split = all(&bytes, step).map(joined).map_err(|e| e.to_string());
            prop_assert_eq!(whole, split);
        }
    }

    /// Adjacent pieces of data put together, empty ones left out.
    fn joined(frames: Vec<Frame>) -> Vec<Frame> {
        let mut out: Vec<Frame> = Vec::new();
        for frame in frames {
            match (out.last_mut(), frame) {
                (Some(Frame::Data { id: a, fin: end @ false, data: head }), Frame::Data { id: b, fin, data: tail })
                    if *a == b =>
                {
                    *head = [&head[..], &tail[..]].concat().into();
                    *end = fin;
                }
                (_, frame) => out.push(frame),
            }
        }
        out
    }
}
