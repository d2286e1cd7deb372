//! Header blocks: name and value pairs, each direction one zlib stream with a preset dictionary for the whole life of
//! the connection.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::SpdyError;
use super::dictionary::DICTIONARY;

/// Decompressed bytes of a block at most.
pub const BLOCK_MAX: usize = 64 << 10;
/// Pairs of a block at most.
const PAIRS_MAX: u32 = 128;
const STEP: usize = 4 << 10;

/// Names (lower case) and values, in the order sent. Several values of a name are separated by NUL.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(String, String)>);

impl Headers {
    /// The first value of `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        let (_, values) = self.0.iter().find(|(n, _)| n.eq_ignore_ascii_case(name))?;
        values.split('\0').next()
    }

    /// Reads a decompressed block.
    ///
    /// # Errors
    /// It is cut short, too long or no UTF-8.
    pub fn parse(block: &[u8]) -> Result<Self, SpdyError> {
        let mut rest = block;
        let pairs = number(&mut rest)?;
        if pairs > PAIRS_MAX {
            return Err(SpdyError::HeadersTooLarge);
        }
        let mut headers = Vec::new();
        for _ in 0..pairs {
            let name = text(&mut rest)?.to_ascii_lowercase();
            headers.push((name, text(&mut rest)?.to_owned()));
        }
        Ok(Headers(headers))
    }

    /// The block, not yet compressed.
    pub fn block(&self) -> Vec<u8> {
        let mut block = (self.0.len() as u32).to_be_bytes().to_vec();
        for part in self.0.iter().flat_map(|(name, value)| [name, value]) {
            block.extend_from_slice(&(part.len() as u32).to_be_bytes());
            block.extend_from_slice(part.as_bytes());
        }
        block
    }
}

fn number(rest: &mut &[u8]) -> Result<u32, SpdyError> {
    let (head, tail) = rest.split_first_chunk::<4>().ok_or(SpdyError::Malformed("header block"))?;
    *rest = tail;
    Ok(u32::from_be_bytes(*head))
}

fn text<'a>(rest: &mut &'a [u8]) -> Result<&'a str, SpdyError> {
    let length = number(rest)? as usize;
    let (head, tail) = rest.split_at_checked(length).ok_or(SpdyError::Malformed("header block"))?;
    *rest = tail;
    std::str::from_utf8(head).map_err(|_| SpdyError::Malformed("header text"))
}

/// Compresses the blocks of one direction.
pub struct Compressor(Compress);

impl Compressor {
    /// With the dictionary of SPDY/3.
    pub fn new() -> Self {
        let mut zlib = Compress::new(Compression::fast(), true);
        zlib.set_dictionary(&DICTIONARY).expect("a new zlib stream takes a dictionary");
        Compressor(zlib)
    }

    /// The block as it goes over the wire, flushed so that the peer can read it at once.
    pub fn compress(&mut self, block: &[u8]) -> Vec<u8> {
        let (mut out, mut done) = (Vec::with_capacity(block.len() + 64), 0);
        loop {
            let before = self.0.total_in();
            if out.capacity() - out.len() < 64 {
                out.reserve(STEP);
            }
            let _ = self.0.compress_vec(&block[done..], &mut out, FlushCompress::Sync);
            done += (self.0.total_in() - before) as usize;
            // Room left over means that the flush is complete.
            if done == block.len() && out.len() < out.capacity() {
                return out;
            }
        }
    }
}

/// Decompresses the blocks of one direction.
pub struct Decompressor(Decompress);

impl Decompressor {
    /// Before the first block.
    pub fn new() -> Self {
        Decompressor(Decompress::new(true))
    }

    /// One block.
    ///
    /// # Errors
    /// It is no zlib data, wants another dictionary, or is longer than [`BLOCK_MAX`].
    pub fn decompress(&mut self, data: &[u8]) -> Result<Vec<u8>, SpdyError> {
        let (mut out, mut done) = (Vec::with_capacity(STEP), 0);
        loop {
            if out.capacity() - out.len() < STEP {
                out.reserve(STEP);
            }
            let (before_in, before_out) = (self.0.total_in(), out.len());
            let answer = self.0.decompress_vec(&data[done..], &mut out, FlushDecompress::Sync);
            let moved = (self.0.total_in() - before_in) as usize;
            done += moved;
            match answer {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(&DICTIONARY).map_err(|_| SpdyError::Malformed("header compression"))?;
                    continue;
                }
                Err(_) | Ok(Status::StreamEnd) => return Err(SpdyError::Malformed("header compression")),
                Ok(Status::Ok | Status::BufError) => {}
            }
            if out.len() > BLOCK_MAX {
                return Err(SpdyError::HeadersTooLarge);
            }
            let still = moved == 0 && out.len() == before_out;
            if still || (done == data.len() && out.len() < out.capacity()) {
                return Ok(out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::dictionary::ADLER32;
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        Headers(pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn the_dictionary_is_that_of_spdy_3() {
        // The checksum follows the two bytes of the zlib header.
        let wire = Compressor::new().compress(b"x");
        assert_eq!(wire[2..6], ADLER32.to_be_bytes());
    }

    #[test]
    fn blocks_survive_the_way_one_after_the_other() {
        let (mut compressor, mut decompressor) = (Compressor::new(), Decompressor::new());
        let long = "v".repeat(20_000);
        for pairs in [
            vec![("streamtype", "error")],
            vec![("streamtype", "data"), ("port", "8080"), ("requestid", "1")],
            vec![],
            vec![("x", long.as_str())],
        ] {
            let sent = headers(&pairs);
            let block = decompressor.decompress(&compressor.compress(&sent.block())).unwrap();
            assert_eq!(Headers::parse(&block).unwrap(), sent);
        }
    }

    #[test]
    fn a_block_that_swells_is_refused() {
        let wire = Compressor::new().compress(&[0; 1 << 20]);
        assert!(wire.len() < BLOCK_MAX, "{} bytes", wire.len());
        assert!(matches!(Decompressor::new().decompress(&wire), Err(SpdyError::HeadersTooLarge)));
    }

    #[test]
    fn garbage_is_refused() {
        assert!(Decompressor::new().decompress(b"garbage").is_err());
        assert!(Headers::parse(&[0, 0, 0, 1, 0, 0, 0, 9, b'x']).is_err());
        assert!(Headers::parse(&[0xff; 8]).is_err());
    }
}
