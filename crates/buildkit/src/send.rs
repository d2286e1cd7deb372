//! A folder, to the client: the same protocol as [`crate::receive`], the other way round. We tell what there is, the client asks.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use grpc::Requests;

use crate::messages::{Packet, PacketKind, Stat};
use crate::mode::to_go;
use crate::session::{Session, SessionError};

/// What takes results of exporters.
pub const PATH: &str = "/moby.filesync.v1.FileSend/DiffCopy";
/// The metadata that says which exporter's.
pub const EXPORTER: &str = "buildkit-attachable-exporter-id";
/// Bytes sent at once.
const CHUNK: usize = 32 << 10;

impl Session {
    /// Sends a folder as the result of an exporter. Blocks on the disk, so it is not for a thread that others need.
    ///
    /// # Errors
    /// When it cannot be read, or the client does not take it.
    pub async fn send_folder(&self, exporter: usize, from: &Path) -> Result<(), SessionError> {
        let id = exporter.to_string();
        let (requests, mut answers) = self.needs(PATH)?.duplex(PATH, &[(EXPORTER, id.as_str())]).await?;
        let mut telling = Box::pin(tell(from, requests.clone()));
        let mut files: Option<BTreeMap<u32, PathBuf>> = None;
        let mut wanted: Vec<u32> = Vec::new();
        loop {
            // The client may ask before all is told: what it asks for is sent when everything is.
            let packet = match &files {
                None => tokio::select! {
                    told = &mut telling => {
                        files = Some(told?);
                        None
                    }
                    packet = answers.next::<Packet>() => Some(packet?),
                },
                Some(_) => Some(answers.next::<Packet>().await?),
            };
            match packet {
                None => {}
                Some(None) => {
                    return Err(SessionError::Wrong("the client ended the transfer of files early".to_owned()));
                }
                Some(Some(packet)) => match PacketKind::try_from(packet.kind) {
                    Ok(PacketKind::Req) => wanted.push(packet.id),
                    Ok(PacketKind::Fin) => {
                        requests.send(&Packet { kind: PacketKind::Fin as i32, ..Packet::default() }).await?;
                        break;
                    }
                    _ => {
                        let said = String::from_utf8_lossy(&packet.data).into_owned();
                        return Err(SessionError::Wrong(format!("error from receiver: {said}")));
                    }
                },
            }
            if let Some(files) = &mut files {
                for id in wanted.drain(..) {
                    let path = files.remove(&id).ok_or_else(|| SessionError::Wrong(format!("invalid file id {id}")))?;
                    content(&from.join(path), id, &requests).await?;
                }
            }
        }
        drop(requests);
        while answers.next::<Packet>().await?.is_some() {}
        Ok(())
    }
}

/// Tells all that is in a folder, each folder's content in the order of names right after it, and which numbers are files.
async fn tell(from: &Path, requests: Requests) -> Result<BTreeMap<u32, PathBuf>, SessionError> {
    let mut files = BTreeMap::new();
    let mut next = 0u32;
    // A stack: what comes first is on top.
    let mut left = children(from, Path::new(""))?;
    while let Some(path) = left.pop() {
        let full = from.join(&path);
        let found = fs::symlink_metadata(&full).map_err(SessionError::io("look at", &full))?;
        let Some(stat) = stat(&full, &path, &found)? else { continue };
        if found.is_file() {
            files.insert(next, path.clone());
        }
        next += 1;
        let packet = Packet { kind: PacketKind::Stat as i32, stat: Some(stat), ..Packet::default() };
        requests.send(&packet).await?;
        if found.is_dir() {
            left.extend(children(from, &path)?);
        }
    }
    requests.send(&Packet { kind: PacketKind::Stat as i32, ..Packet::default() }).await?;
    Ok(files)
}

fn children(from: &Path, dir: &Path) -> Result<Vec<PathBuf>, SessionError> {
    let full = from.join(dir);
    let entries = fs::read_dir(&full).and_then(|all| all.collect::<io::Result<Vec<_>>>());
    let mut names: Vec<_> =
        entries.map_err(SessionError::io("look into", &full))?.iter().map(|e| dir.join(e.file_name())).collect();
    names.sort_unstable_by(|a, b| b.cmp(a));
    Ok(names)
}

fn stat(full: &Path, path: &Path, found: &fs::Metadata) -> Result<Option<Stat>, SessionError> {
    let Some(mode) = to_go(found.mode()) else { return Ok(None) };
    let Some(text) = path.to_str() else {
        return Err(SessionError::Wrong(format!("the name of {} is not UTF-8", path.display())));
    };
    let link = if found.is_symlink() {
        let to = fs::read_link(full).map_err(SessionError::io("read", full))?;
        to.to_string_lossy().into_owned()
    } else {
        String::new()
    };
    Ok(Some(Stat {
        path: text.to_owned(),
        mode,
        uid: found.uid(),
        gid: found.gid(),
        size: if found.is_dir() { 0 } else { i64::try_from(found.len()).unwrap_or(i64::MAX) },
        mod_time: found.mtime().saturating_mul(1_000_000_000).saturating_add(found.mtime_nsec()),
        linkname: link,
        ..Stat::default()
    }))
}

async fn content(path: &Path, id: u32, requests: &Requests) -> Result<(), SessionError> {
    let fail = SessionError::io("read", path);
    let mut file = fs::File::open(path).map_err(&fail)?;
    let mut buffer = vec![0; CHUNK];
    loop {
        let n = file.read(&mut buffer).map_err(&fail)?;
        let data = buffer[..n].to_vec();
        requests.send(&Packet { kind: PacketKind::Data as i32, id, data, ..Packet::default() }).await?;
        if n == 0 {
            return Ok(());
        }
    }
}
