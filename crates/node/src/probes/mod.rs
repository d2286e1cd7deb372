//! Asking containers how they are, and their lifecycle hooks: by a command in them, HTTP, TCP or gRPC health.

mod grpc;
mod http;

use std::net::IpAddr;
use std::time::Duration;

use engine::runtime::{ExecSpec, Output, RuntimeError};
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, LifecycleHandler, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use reconcile::probe::{Outcome, Settings};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::runtime::Runtime;

/// Output of a command kept for a message; the rest is read and dropped.
const OUTPUT_MAX: usize = 10 << 10;
/// A hook without a limit of its own is given up after this long.
const HOOK_LIMIT: Duration = Duration::from_secs(3600);

/// What is probed.
pub(crate) struct Target<'a> {
    pub(crate) runtime: &'a dyn Runtime,
    pub(crate) container: &'a Container,
    pub(crate) id: &'a str,
    pub(crate) ip: Option<IpAddr>,
}

/// What came back: healthy, unhealthy with the reason, or not possible to tell.
enum Answer {
    Good,
    Bad(String),
    Unknown(String),
}

/// Probes once, within the probe's timeout.
pub(crate) async fn probe(target: &Target<'_>, probe: &Probe) -> (Outcome, String) {
    let limit = Duration::try_from(Settings::of(probe).timeout).unwrap_or(Duration::from_secs(1));
    let answer = match tokio::time::timeout(limit, ask(target, probe)).await {
        Ok(answer) => answer,
        Err(_) if probe.exec.is_some() => Answer::Bad(format!("command timed out after {}s", limit.as_secs())),
        Err(_) => Answer::Bad(format!("no answer within {}s", limit.as_secs())),
    };
    match answer {
        Answer::Good => (Outcome::Success, String::new()),
        Answer::Bad(message) => (Outcome::Failure, message),
        Answer::Unknown(message) => (Outcome::Unknown, message),
    }
}

async fn ask(target: &Target<'_>, probe: &Probe) -> Answer {
    if let Some(exec) = &probe.exec {
        return match run(target, exec.command.clone().unwrap_or_default()).await {
            Ok((0, _)) => Answer::Good,
            Ok((_, output)) => Answer::Bad(output),
            // The container went away while it was asked: that says nothing of its health.
            Err(e @ (RuntimeError::NotFound { .. } | RuntimeError::Conflict { .. })) => Answer::Unknown(e.to_string()),
            Err(e) => Answer::Bad(e.to_string()),
        };
    }
    let Some(ip) = target.ip else { return Answer::Unknown("the pod has no address yet".to_owned()) };
    let result = if let Some(get) = &probe.http_get {
        http_get(target, ip, get).await
    } else if let Some(tcp) = &probe.tcp_socket {
        match (port(target.container, &tcp.port), tcp.host.as_deref().filter(|h| !h.is_empty())) {
            (Err(e), _) => Err(e),
            (Ok(port), Some(host)) => {
                TcpStream::connect((host, port)).await.map(drop).map_err(|e| format!("dial tcp {host}:{port}: {e}"))
            }
            (Ok(port), None) => {
                TcpStream::connect((ip, port)).await.map(drop).map_err(|e| format!("dial tcp {ip}:{port}: {e}"))
            }
        }
    } else if let Some(grpc) = &probe.grpc {
        match u16::try_from(grpc.port) {
            Ok(port) => grpc::check(ip, port, grpc.service.as_deref().unwrap_or_default()).await,
            Err(_) => Err(format!("{} is not a port", grpc.port)),
        }
    } else {
        Err("the probe has no handler".to_owned())
    };
    match result {
        Ok(()) => Answer::Good,
        Err(message) => Answer::Bad(message),
    }
}

/// Runs a lifecycle hook to its end; the error says why it failed.
pub(crate) async fn hook(
    target: &Target<'_>,
    handler: &LifecycleHandler,
    limit: Option<Duration>,
) -> Result<(), String> {
    let limit = limit.unwrap_or(HOOK_LIMIT);
    match tokio::time::timeout(limit, run_hook(target, handler)).await {
        Ok(result) => result,
        Err(_) => Err(format!("not done within {}s", limit.as_secs())),
    }
}

async fn run_hook(target: &Target<'_>, handler: &LifecycleHandler) -> Result<(), String> {
    if let Some(exec) = &handler.exec {
        return match run(target, exec.command.clone().unwrap_or_default()).await {
            Ok((0, _)) => Ok(()),
            Ok((code, output)) => Err(format!("command exited with {code}: {output}")),
            Err(e) => Err(e.to_string()),
        };
    }
    if let Some(sleep) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(sleep.seconds.max(0).unsigned_abs())).await;
        return Ok(());
    }
    if let Some(get) = &handler.http_get {
        let ip = target.ip.ok_or("the pod has no address")?;
        return http_get(target, ip, get).await;
    }
    Err("the hook has no handler".to_owned())
}

async fn http_get(target: &Target<'_>, ip: IpAddr, get: &HTTPGetAction) -> Result<(), String> {
    let port = port(target.container, &get.port)?;
    http::get(&http::Get {
        tls: get.scheme.as_deref() == Some("HTTPS"),
        host: get.host.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| ip.to_string()),
        port,
        path: get.path.as_deref().unwrap_or("/"),
        headers: get.http_headers.iter().flatten().map(|h| (h.name.as_str(), h.value.as_str())).collect(),
    })
    .await
}

/// A port given by number or by the name of a container port.
pub(crate) fn port(c: &Container, port: &IntOrString) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(n) => *n,
        IntOrString::String(name) => match c.ports.iter().flatten().find(|p| p.name.as_deref() == Some(name)) {
            Some(p) => p.container_port,
            None => name.parse().map_err(|_| format!("container has no port named {name:?}"))?,
        },
    };
    u16::try_from(number).ok().filter(|p| *p > 0).ok_or_else(|| format!("{number} is not a port"))
}

/// Runs a command in the container: exit code and what it wrote.
async fn run(target: &Target<'_>, command: Vec<String>) -> Result<(i32, String), RuntimeError> {
    let spec =
        ExecSpec { container_id: target.id.to_owned(), command, stdout: true, stderr: true, ..ExecSpec::default() };
    let session = target.runtime.exec(spec).await?;
    let (out, err, code) = tokio::join!(drain(session.stdout), drain(session.stderr), session.exit);
    let text: Vec<u8> = out.into_iter().chain(err).take(OUTPUT_MAX).collect();
    Ok((code?, String::from_utf8_lossy(&text).into_owned()))
}

async fn drain(output: Option<Output>) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(mut output) = output else { return kept };
    let mut chunk = [0u8; 4096];
    while let Ok(n) = output.read(&mut chunk).await {
        if n == 0 {
            break;
        }
        let room = OUTPUT_MAX - kept.len();
        kept.extend_from_slice(&chunk[..n.min(room)]);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ContainerPort;

    #[test]
    fn ports_are_numbers_or_names() {
        let c = Container {
            ports: Some(vec![ContainerPort {
                name: Some("web".into()),
                container_port: 80,
                ..ContainerPort::default()
            }]),
            ..Container::default()
        };
        assert_eq!(port(&c, &IntOrString::Int(8080)), Ok(8080));
        assert_eq!(port(&c, &IntOrString::String("web".into())), Ok(80));
        assert_eq!(port(&c, &IntOrString::String("81".into())), Ok(81));
        assert!(port(&c, &IntOrString::String("no".into())).is_err());
        assert!(port(&c, &IntOrString::Int(0)).is_err());
    }
}
