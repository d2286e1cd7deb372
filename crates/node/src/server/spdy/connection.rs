//! The server's end of a connection: one future reads, one writes, streams are queues between them and whoever serves.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::super::channel::{ByteStream, Outgoing, Outlet, QUEUE};
use super::SpdyError;
use super::frame::{Decoder, Frame, Reset};
use super::headers::{Compressor, Decompressor, Headers};

/// Streams of a connection at once at most: port-forward uses two for each forwarded connection.
const STREAMS_MAX: usize = 512;
/// Streams opened but not yet taken.
const ACCEPT_QUEUE: usize = 16;
/// Control frames waiting to be written.
const CONTROL_QUEUE: usize = 64;
/// Bytes taken before the peer is told so.
const WINDOW_STEP: u32 = 32 << 10;
const READ: usize = 64 << 10;
/// Written to a client whose bytes nobody takes, so that its going away is noticed.
const PROBE: Duration = Duration::from_secs(10);

/// A stream opened by the client.
pub struct Stream {
    /// Its id.
    pub id: u32,
    /// What it is for.
    pub headers: Headers,
    /// Where to write.
    pub outlet: Outlet,
    input: Input,
    reset: CancellationToken,
    entry: Registration,
}

impl Stream {
    /// Bytes from the client, ending with its half-close; where to write; cancelled when the client resets the stream;
    /// and what keeps the stream known while it is held.
    pub fn split(self) -> (ByteStream, Outlet, CancellationToken, Registration) {
        (self.input.into_bytes(), self.outlet, self.reset, self.entry)
    }
}

/// Removes the stream from the table when dropped.
pub struct Registration {
    id: u32,
    table: Table,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.table.lock().remove(&self.id);
    }
}

/// The bytes of a stream; tells the client as they are taken.
struct Input {
    id: u32,
    queue: mpsc::Receiver<Bytes>,
    taken: u32,
    control: mpsc::WeakSender<Control>,
}

impl Input {
    async fn next(&mut self) -> Option<Bytes> {
        let bytes = self.queue.recv().await?;
        self.taken = self.taken.saturating_add(bytes.len() as u32);
        if self.taken >= WINDOW_STEP
            && let Some(control) = self.control.upgrade()
            && control.try_send(Control::Frame(Frame::WindowUpdate { id: self.id, delta: self.taken })).is_ok()
        {
            self.taken = 0;
        }
        Some(bytes)
    }

    fn into_bytes(self) -> ByteStream {
        Box::pin(futures::stream::unfold(self, |mut input| async { Some((input.next().await?, input)) }))
    }
}

/// What the reader has to say to the peer.
enum Control {
    Frame(Frame),
    Reply(u32),
}

struct Entry {
    /// `None` after the client's half-close.
    input: Option<mpsc::Sender<Bytes>>,
    reset: CancellationToken,
}

type Table = Arc<Mutex<HashMap<u32, Entry>>>;

/// Both directions of a connection, to be driven together, and the streams that come.
pub struct Connection<T> {
    /// Reads until the client closes or breaks the protocol.
    pub reader: Reader<T>,
    /// Writes until all outlets are dropped.
    pub writer: Writer<T>,
    /// The streams; ends when reading ends.
    pub streams: mpsc::Receiver<Stream>,
    /// Keeps the writer going, as every outlet does, until it is dropped.
    pub keep: mpsc::Sender<Outgoing>,
}

/// Takes a connection. `stall`: a stream whose bytes nobody took for so long is reset, so that it does not hold up the
/// others; `None` waits for as long as it takes.
pub fn connect<T: AsyncRead + AsyncWrite>(io: T, stall: Option<Duration>) -> Connection<T> {
    let (read, write) = tokio::io::split(io);
    let (accept, streams) = mpsc::channel(ACCEPT_QUEUE);
    let (control_tx, control) = mpsc::channel(CONTROL_QUEUE);
    let (keep, out) = mpsc::channel(QUEUE);
    let reader = Reader {
        io: read,
        table: Table::default(),
        accept,
        control: control_tx,
        out: keep.downgrade(),
        zlib: Decompressor::new(),
        last: 0,
        received: 0,
        pings: 0,
        stall,
    };
    Connection { reader, writer: Writer { io: write, control, out, zlib: Compressor::new() }, streams, keep }
}

/// Reads frames and deals them out.
pub struct Reader<T> {
    io: ReadHalf<T>,
    table: Table,
    accept: mpsc::Sender<Stream>,
    control: mpsc::Sender<Control>,
    out: mpsc::WeakSender<Outgoing>,
    zlib: Decompressor,
    last: u32,
    received: u32,
    pings: u32,
    stall: Option<Duration>,
}

impl<T: AsyncRead + AsyncWrite> Reader<T> {
    /// Reads to the end of the connection.
    ///
    /// # Errors
    /// The client broke the protocol, or the connection failed.
    pub async fn run(mut self) -> Result<(), SpdyError> {
        let result = self.read().await;
        // Streams end with the connection: dropping the queues ends their inputs.
        for (_, entry) in self.table.lock().drain() {
            entry.reset.cancel();
        }
        result
    }

    async fn read(&mut self) -> Result<(), SpdyError> {
        let (mut decoder, mut buf) = (Decoder::default(), BytesMut::with_capacity(READ));
        loop {
            while let Some(frame) = decoder.next(&mut buf)? {
                if !self.frame(frame).await? {
                    return Ok(());
                }
            }
            buf.reserve(READ);
            if self.io.read_buf(&mut buf).await? == 0 {
                return Ok(());
            }
        }
    }

    /// False when the client takes its leave.
    async fn frame(&mut self, frame: Frame) -> Result<bool, SpdyError> {
        match frame {
            Frame::SynStream { id, fin, block } => self.open(id, fin, &block).await?,
            Frame::Data { id, fin, data } => self.data(id, fin, data).await?,
            Frame::SynReply { block, .. } => drop(self.zlib.decompress(&block)?),
            Frame::Headers { id, fin, block } => {
                self.zlib.decompress(&block)?;
                if fin {
                    self.half_close(id);
                }
            }
            Frame::RstStream { id, .. } => {
                if let Some(entry) = self.table.lock().remove(&id) {
                    entry.reset.cancel();
                }
            }
            // Even ids are ours coming back (section 2.6.5).
            Frame::Ping { id } if id % 2 == 1 => self.say(Control::Frame(Frame::Ping { id })).await?,
            // Streams already open go on; the client closes when it is done.
            Frame::GoAway { .. } => return Ok(!self.table.lock().is_empty()),
            Frame::Ping { .. } | Frame::Settings | Frame::WindowUpdate { .. } | Frame::Unknown { .. } => {}
        }
        Ok(true)
    }

    async fn say(&mut self, control: Control) -> Result<(), SpdyError> {
        self.control.send(control).await.map_err(|_| SpdyError::Closing)
    }

    async fn refuse(&mut self, id: u32, status: Reset) -> Result<(), SpdyError> {
        self.say(Control::Frame(Frame::RstStream { id, status: status as u32 })).await
    }

    async fn open(&mut self, id: u32, fin: bool, block: &[u8]) -> Result<(), SpdyError> {
        // Also of streams refused: the compression goes on from block to block.
        let block = self.zlib.decompress(block)?;
        if id.is_multiple_of(2) || id <= self.last {
            return Err(SpdyError::StreamId(id));
        }
        self.last = id;
        let Ok(headers) = Headers::parse(&block) else { return self.refuse(id, Reset::Protocol).await };
        let out = self.out.upgrade().filter(|_| self.table.lock().len() < STREAMS_MAX);
        let Some(out) = out else { return self.refuse(id, Reset::Refused).await };
        let (tx, queue) = mpsc::channel(QUEUE);
        let reset = CancellationToken::new();
        self.table.lock().insert(id, Entry { input: (!fin).then_some(tx), reset: reset.clone() });
        // Before anyone can write to the stream: clients drop what comes before the reply.
        self.say(Control::Reply(id)).await?;
        let stream = Stream {
            id,
            headers,
            outlet: Outlet::new(out, id),
            input: Input { id, queue, taken: 0, control: self.control.downgrade() },
            reset,
            entry: Registration { id, table: self.table.clone() },
        };
        match self.accept.send(stream).await {
            Ok(()) => Ok(()),
            Err(_) => self.refuse(id, Reset::Refused).await,
        }
    }

    async fn data(&mut self, id: u32, fin: bool, data: Bytes) -> Result<(), SpdyError> {
        self.received = self.received.saturating_add(data.len() as u32);
        if self.received >= WINDOW_STEP
            && self.control.try_send(Control::Frame(Frame::WindowUpdate { id: 0, delta: self.received })).is_ok()
        {
            self.received = 0;
        }
        let input = self.table.lock().get(&id).and_then(|entry| Some((entry.input.clone()?, entry.reset.clone())));
        if let Some((input, reset)) = input.filter(|_| !data.is_empty()) {
            self.deliver(id, &input, &reset, data).await?;
        }
        if fin {
            self.half_close(id);
        }
        Ok(())
    }

    fn half_close(&self, id: u32) {
        if let Some(entry) = self.table.lock().get_mut(&id) {
            entry.input = None;
        }
    }

    /// Waits until the stream takes the bytes. Reading stops meanwhile, which is all the flow control that the clients
    /// know.
    async fn deliver(
        &mut self,
        id: u32,
        input: &mpsc::Sender<Bytes>,
        reset: &CancellationToken,
        data: Bytes,
    ) -> Result<(), SpdyError> {
        let stall = self.stall;
        let stalled = async move {
            match stall {
                Some(limit) => tokio::time::sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(stalled);
        loop {
            tokio::select! {
                permit = input.reserve() => {
                    if let Ok(permit) = permit {
                        permit.send(data);
                    }
                    return Ok(());
                }
                () = tokio::time::sleep(PROBE) => {
                    self.pings = self.pings.wrapping_add(2);
                    // Full: plenty to write already.
                    let _ = self.control.try_send(Control::Frame(Frame::Ping { id: self.pings }));
                }
                () = self.control.closed() => return Err(SpdyError::Closing),
                () = &mut stalled => {
                    reset.cancel();
                    self.table.lock().remove(&id);
                    return self.refuse(id, Reset::Cancel).await;
                }
            }
        }
    }
}

/// Writes frames in the order of their queues.
pub struct Writer<T> {
    io: WriteHalf<T>,
    control: mpsc::Receiver<Control>,
    out: mpsc::Receiver<Outgoing>,
    zlib: Compressor,
}

impl<T: AsyncRead + AsyncWrite> Writer<T> {
    /// Writes until all outlets are dropped and what they sent is written.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn run(&mut self) -> Result<(), SpdyError> {
        let mut buf = BytesMut::new();
        loop {
            tokio::select! {
                biased;
                Some(control) = self.control.recv() => self.control(control, &mut buf),
                out = self.out.recv() => match out {
                    Some(out) => data(out, &mut buf),
                    None => return Ok(self.io.flush().await?),
                }
            }
            self.io.write_all_buf(&mut buf).await?;
            if self.control.is_empty() && self.out.is_empty() {
                self.io.flush().await?;
            }
        }
    }

    /// Says that nothing more will be written.
    pub async fn close(mut self) {
        let _ = self.io.shutdown().await;
    }

    fn control(&mut self, control: Control, buf: &mut BytesMut) {
        match control {
            Control::Frame(frame) => frame.encode(buf),
            Control::Reply(id) => {
                let block = self.zlib.compress(&Headers::default().block()).into();
                Frame::SynReply { id, fin: false, block }.encode(buf);
            }
        }
    }
}

fn data(out: Outgoing, buf: &mut BytesMut) {
    match out {
        Outgoing::Data { id, bytes } => Frame::Data { id, fin: false, data: bytes }.encode(buf),
        Outgoing::End { id } => Frame::Data { id, fin: true, data: Bytes::new() }.encode(buf),
        Outgoing::Alive => {}
    }
}
