//! A CSI driver as small as one can be: a volume is a folder, staging and publishing are bind mounts. It is this test program
//! itself, started with `E2E_CSI_NAME` in its environment: on the host, or in a container that mounts the host's libraries.
//! What it is asked it writes down, one line of JSON for each call.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use prost::Message;
use serde_json::{Value, json};
use tokio::net::UnixListener;

#[derive(Clone, PartialEq, Message)]
struct PluginInfo {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    endpoint: String,
    #[prost(string, repeated, tag = "4")]
    versions: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Topology {
    #[prost(map = "string, string", tag = "1")]
    segments: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct NodeInfo {
    #[prost(string, tag = "1")]
    node_id: String,
    #[prost(int64, tag = "2")]
    max_volumes: i64,
    #[prost(message, optional, tag = "3")]
    topology: Option<Topology>,
}

#[derive(Clone, PartialEq, Message)]
struct Mount {
    #[prost(string, tag = "1")]
    fs_type: String,
    #[prost(string, repeated, tag = "2")]
    flags: Vec<String>,
    #[prost(string, tag = "3")]
    group: String,
}

#[derive(Clone, PartialEq, Message)]
struct Mode {
    #[prost(int32, tag = "1")]
    mode: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Capability {
    /// Asks for a device; there is nothing in it.
    #[prost(message, optional, tag = "1")]
    block: Option<Undo>,
    #[prost(message, optional, tag = "2")]
    mount: Option<Mount>,
    #[prost(message, optional, tag = "3")]
    mode: Option<Mode>,
}

#[derive(Clone, PartialEq, Message)]
struct Stage {
    #[prost(string, tag = "1")]
    volume_id: String,
    #[prost(map = "string, string", tag = "2")]
    publish_context: HashMap<String, String>,
    #[prost(string, tag = "3")]
    staging_path: String,
    #[prost(message, optional, tag = "4")]
    capability: Option<Capability>,
    #[prost(map = "string, string", tag = "5")]
    secrets: HashMap<String, String>,
    #[prost(map = "string, string", tag = "6")]
    context: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct Publish {
    #[prost(string, tag = "1")]
    volume_id: String,
    #[prost(map = "string, string", tag = "2")]
    publish_context: HashMap<String, String>,
    #[prost(string, tag = "3")]
    staging_path: String,
    #[prost(string, tag = "4")]
    target_path: String,
    #[prost(message, optional, tag = "5")]
    capability: Option<Capability>,
    #[prost(bool, tag = "6")]
    read_only: bool,
    #[prost(map = "string, string", tag = "7")]
    secrets: HashMap<String, String>,
    #[prost(map = "string, string", tag = "8")]
    context: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct Undo {
    #[prost(string, tag = "1")]
    volume_id: String,
    #[prost(string, tag = "2")]
    path: String,
}

#[derive(Clone, PartialEq, Message)]
struct Range {
    #[prost(int64, tag = "1")]
    required: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Expand {
    #[prost(string, tag = "1")]
    volume_id: String,
    #[prost(string, tag = "2")]
    path: String,
    #[prost(message, optional, tag = "3")]
    range: Option<Range>,
}

#[derive(Clone, PartialEq, Message)]
struct Expanded {
    #[prost(int64, tag = "1")]
    capacity: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Usage {
    #[prost(int64, tag = "1")]
    available: i64,
    #[prost(int64, tag = "2")]
    total: i64,
    #[prost(int64, tag = "3")]
    used: i64,
    #[prost(int32, tag = "4")]
    unit: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Stats {
    #[prost(message, repeated, tag = "1")]
    usage: Vec<Usage>,
}

#[derive(Clone, PartialEq, Message)]
struct Registered {
    #[prost(bool, tag = "1")]
    registered: bool,
    #[prost(string, tag = "2")]
    error: String,
}

/// What the environment tells the driver.
struct Driver {
    name: String,
    /// Where the node is to find the socket of the node service.
    endpoint: String,
    data: PathBuf,
    stages: bool,
}

/// Serves until it is killed, if the environment says that this process is the driver.
pub fn serve_if_asked() -> Option<Result<()>> {
    let name = std::env::var("E2E_CSI_NAME").ok()?;
    Some(
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(Into::into)
            .and_then(|runtime| runtime.block_on(serve(name))),
    )
}

async fn serve(name: String) -> Result<()> {
    let variable = |name: &str| std::env::var(name).with_context(|| format!("{name} is set"));
    let (socket, registration) =
        (PathBuf::from(variable("E2E_CSI_SOCKET")?), PathBuf::from(variable("E2E_CSI_REGISTRATION")?));
    let driver = Arc::new(Driver {
        name,
        endpoint: variable("E2E_CSI_ENDPOINT")?,
        data: PathBuf::from(variable("E2E_CSI_DATA")?),
        stages: variable("E2E_CSI_STAGES").is_ok(),
    });
    let mut listeners = Vec::new();
    for path in [&socket, &registration] {
        std::fs::create_dir_all(path.parent().context("a socket is in a folder")?)?;
        let _gone = std::fs::remove_file(path);
        listeners.push(UnixListener::bind(path).with_context(|| format!("listen on {}", path.display()))?);
    }
    let all = listeners.into_iter().map(|listener| accept(driver.clone(), listener));
    futures::future::join_all(all).await;
    Ok(())
}

async fn accept(driver: Arc<Driver>, listener: UnixListener) {
    while let Ok((stream, _)) = listener.accept().await {
        let driver = driver.clone();
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request| answer(driver.clone(), request));
            let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ended = http.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

type Body = StreamBody<futures::stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>;

async fn answer(driver: Arc<Driver>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    let bytes = request.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    let done = driver.call(&path, bytes.slice(5.min(bytes.len())..));
    let mut frames = Vec::new();
    let mut trailers = http::HeaderMap::new();
    match done {
        Ok(message) => {
            let mut frame = BytesMut::new();
            frame.put_u8(0);
            frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
            frame.put_slice(&message);
            frames.push(Ok(Frame::data(frame.freeze())));
            trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
        }
        Err(error) => {
            let text: String = format!("{error:#}").chars().filter(|c| c.is_ascii() && !c.is_control()).collect();
            trailers.insert("grpc-status", http::HeaderValue::from_static("13"));
            trailers.insert(
                "grpc-message",
                http::HeaderValue::from_str(&text).unwrap_or(http::HeaderValue::from_static("?")),
            );
        }
    }
    frames.push(Ok(Frame::trailers(trailers)));
    let mut response = Response::new(StreamBody::new(futures::stream::iter(frames)));
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/grpc"));
    Ok(response)
}

fn is_mounted(path: &Path) -> bool {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().any(|line| line.split(' ').nth(4) == path.to_str())
}

fn bind(from: &Path, to: &Path, read_only: bool) -> Result<()> {
    std::fs::create_dir_all(to)?;
    if is_mounted(to) {
        return Ok(());
    }
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("bind on {}", to.display()))?;
    if read_only {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(None::<&str>, to, None::<&str>, flags, None::<&str>)?;
    }
    Ok(())
}

/// Puts a device where a file is made for it.
fn bind_device(device: &str, to: &Path) -> Result<()> {
    std::fs::File::create(to)?;
    if !is_mounted(to) {
        mount(Some(device), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .with_context(|| format!("bind {device} on {}", to.display()))?;
    }
    Ok(())
}

fn unbind(path: &Path) -> Result<()> {
    if is_mounted(path) {
        umount2(path, MntFlags::empty()).with_context(|| format!("unmount {}", path.display()))?;
    }
    Ok(())
}

impl Driver {
    fn note(&self, call: &str, said: Value) -> Result<()> {
        std::fs::create_dir_all(&self.data)?;
        let mut file = std::fs::File::options().create(true).append(true).open(self.data.join("calls"))?;
        Ok(writeln!(file, "{}", json!({"call": call, "said": said}))?)
    }

    fn folder(&self, volume: &str) -> Result<PathBuf> {
        let folder = self.data.join("volumes").join(volume);
        std::fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// The loop device of a volume that is one.
    fn device(&self, volume: &str) -> Result<String> {
        let image = self.data.join(format!("{volume}.img"));
        let run = |args: &[&str]| -> Result<String> {
            let output = std::process::Command::new("losetup").args(args).arg(&image).output()?;
            anyhow::ensure!(output.status.success(), "losetup: {}", String::from_utf8_lossy(&output.stderr));
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        if !image.exists() {
            std::fs::create_dir_all(&self.data)?;
            std::fs::File::create(&image)?.set_len(16 << 20)?;
        }
        match run(&["--associated"])?.split_once(':') {
            Some((device, _)) => Ok(device.to_owned()),
            None => run(&["--find", "--show"]),
        }
    }

    fn publish(&self, r: Publish) -> Result<Vec<u8>> {
        let capability = r.capability.unwrap_or_default();
        let mount = capability.mount.unwrap_or_default();
        let mode = capability.mode.map_or(0, |m| m.mode);
        self.note("publish", json!({
            "id": r.volume_id, "path": r.target_path, "staging": r.staging_path, "secrets": r.secrets,
            "context": r.context, "readOnly": r.read_only, "fsType": mount.fs_type, "flags": mount.flags, "mode": mode,
            "publishContext": r.publish_context,
        }))?;
        if capability.block.is_some() {
            bind_device(&self.device(&r.volume_id)?, Path::new(&r.target_path))?;
            return Ok(Vec::new());
        }
        let from = if r.staging_path.is_empty() { self.folder(&r.volume_id)? } else { r.staging_path.into() };
        bind(&from, Path::new(&r.target_path), r.read_only)?;
        Ok(Vec::new())
    }

    fn stats(&self, r: &Undo) -> Result<Vec<u8>> {
        self.note("stats", json!({"id": r.volume_id, "path": r.path}))?;
        let usage = [(7, 10, 3, 1), (70, 100, 30, 2)];
        let usage = usage.map(|(available, total, used, unit)| Usage { available, total, used, unit });
        Ok(Stats { usage: usage.to_vec() }.encode_to_vec())
    }

    fn call(&self, path: &str, body: Bytes) -> Result<Vec<u8>> {
        let nothing = Ok(Vec::new());
        match path {
            "/pluginregistration.Registration/GetInfo" => Ok(PluginInfo {
                kind: "CSIPlugin".into(),
                name: self.name.clone(),
                endpoint: self.endpoint.clone(),
                versions: vec!["1.0.0".into()],
            }
            .encode_to_vec()),
            "/pluginregistration.Registration/NotifyRegistrationStatus" => {
                let status = Registered::decode(body)?;
                self.note("registered", json!([status.registered, status.error]))?;
                nothing
            }
            "/csi.v1.Node/NodeGetInfo" => Ok(NodeInfo {
                node_id: "the-node".into(),
                max_volumes: 5,
                topology: Some(Topology { segments: [(format!("topology.{}/zone", self.name), "a".into())].into() }),
            }
            .encode_to_vec()),
            // EXPAND_VOLUME, GET_VOLUME_STATS, and STAGE_UNSTAGE_VOLUME if it stages: repeated {rpc {type}}.
            "/csi.v1.Node/NodeGetCapabilities" => {
                let kinds: &[u8] = if self.stages { &[3, 2, 1] } else { &[3, 2] };
                Ok(kinds.iter().flat_map(|kind| [0x0a, 4, 0x0a, 2, 0x08, *kind]).collect())
            }
            "/csi.v1.Node/NodeStageVolume" => {
                let r = Stage::decode(body)?;
                self.note(
                    "stage",
                    json!({"id": r.volume_id, "path": r.staging_path, "secrets": r.secrets, "context": r.context}),
                )?;
                bind(&self.folder(&r.volume_id)?, Path::new(&r.staging_path), false)?;
                nothing
            }
            "/csi.v1.Node/NodeUnstageVolume" => {
                let r = Undo::decode(body)?;
                self.note("unstage", json!({"id": r.volume_id}))?;
                unbind(Path::new(&r.path))?;
                nothing
            }
            "/csi.v1.Node/NodePublishVolume" => self.publish(Publish::decode(body)?),
            "/csi.v1.Node/NodeUnpublishVolume" => {
                let r = Undo::decode(body)?;
                self.note("unpublish", json!({"id": r.volume_id}))?;
                unbind(Path::new(&r.path))?;
                let _gone = std::fs::remove_dir(&r.path).or_else(|_| std::fs::remove_file(&r.path));
                nothing
            }
            "/csi.v1.Node/NodeExpandVolume" => {
                let r = Expand::decode(body)?;
                let wanted = r.range.map_or(0, |range| range.required);
                self.note("expand", json!({"id": r.volume_id, "bytes": wanted}))?;
                Ok(Expanded { capacity: wanted }.encode_to_vec())
            }
            "/csi.v1.Node/NodeGetVolumeStats" => self.stats(&Undo::decode(body)?),
            other => anyhow::bail!("{other} is not implemented"),
        }
    }
}
