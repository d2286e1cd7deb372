//! Who may use the API: members of a group by the socket, and whoever has a certificate by a port.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::command::{self, Output};
use e2e::{IMAGE, Instance, eventually, free_port};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

use crate::Docker;

const LIMIT: Duration = Duration::from_secs(60);

/// Writes `NAME-ca.pem`, and `NAME-server.pem`, `NAME-client.pem` with their keys.
fn certificates(dir: &Path, name: &str) -> Result<()> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, format!("the authority {name}"));
    std::fs::write(dir.join(format!("{name}-ca.pem")), params.self_signed(&key)?.pem())?;
    let issuer = Issuer::new(params, key);
    for (of, usage) in
        [("server", ExtendedKeyUsagePurpose::ServerAuth), ("client", ExtendedKeyUsagePurpose::ClientAuth)]
    {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, of);
        params.extended_key_usages.push(usage);
        std::fs::write(dir.join(format!("{name}-{of}.pem")), params.signed_by(&key, &issuer)?.pem())?;
        std::fs::write(dir.join(format!("{name}-{of}.key")), key.serialize_pem())?;
    }
    Ok(())
}

/// Docker's CLI by the port, showing a certificate of `of`.
fn docker(dir: &Path, port: SocketAddr, of: Option<&str>, args: &[&str]) -> Result<Output> {
    let file = |name: &str| dir.join(name).display().to_string();
    let mut command = Command::new("docker");
    command.args(["--host", &format!("tcp://{port}"), "--tlsverify", "--tlscacert", &file("ours-ca.pem")]);
    if let Some(of) = of {
        command.args(["--tlscert", &file(&format!("{of}-client.pem"))]);
        command.args(["--tlskey", &file(&format!("{of}-client.key"))]);
    }
    command.args(args).env("DOCKER_CONFIG", dir.join("docker-config"));
    for name in ["DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_API_VERSION", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"] {
        command.env_remove(name);
    }
    command::run(&mut command, None, LIMIT)
}

/// What the group database says: the group's number, or root's.
fn group() -> Result<u32> {
    let said = command::run(Command::new("getent").args(["group", "windlass"]), None, LIMIT)?;
    match said.status.success() {
        true => Ok(said.stdout.split(':').nth(2).context("a group has a number")?.parse()?),
        false => Ok(0),
    }
}

pub fn a_port_is_for_clients_with_a_certificate_alone() -> Result<()> {
    let dir = tempfile::tempdir()?;
    certificates(dir.path(), "ours")?;
    certificates(dir.path(), "foreign")?;
    let port = free_port()?;
    let flag = |name: &str, file: &str| format!("--docker-tls-{name}={}", dir.path().join(file).display());
    let instance = Instance::builder("dockertls")
        .flag(&format!("--docker-tcp={port}"))
        .flag(&flag("ca", "ours-ca.pem"))
        .flag(&flag("cert", "ours-server.pem"))
        .flag(&flag("key", "ours-server.key"))
        .start()?;
    let local = Docker::of(&instance)?;
    eventually(LIMIT, "the socket answers", || local.ok(&["version"]))?;
    let meta = std::fs::metadata(local.socket())?;
    ensure!((meta.mode() & 0o777, meta.uid(), meta.gid()) == (0o660, 0, group()?), "{meta:?}");

    let ours = |args: &[&str]| docker(dir.path(), port, Some("ours"), args);
    eventually(LIMIT, "the port answers", || ours(&["version"])?.ok())?;
    // The same containers, and streams that take the connection over.
    ensure!(ours(&["run", "--rm", IMAGE, "sh", "-c", "echo by the port; exit 3"])?.code() == 3);
    ours(&["run", "-d", "--name", "far", IMAGE, "sleep", "1000"])?.ok()?;
    ensure!(local.ok(&["exec", "far", "echo", "near"])? == "near");
    ensure!(ours(&["exec", "far", "echo", "far"])?.ok()? == "far\n");
    for of in [None, Some("foreign")] {
        let refused = docker(dir.path(), port, of, &["ps"])?.failed()?;
        ensure!(refused.contains("certificate") || refused.contains("tls"), "{of:?}: {refused}");
    }
    // Nor without TLS.
    let mut plain = Command::new("docker");
    plain.args(["--host", &format!("tcp://{port}"), "ps"]).env_remove("DOCKER_TLS_VERIFY");
    command::run(&mut plain, None, LIMIT)?.failed()?;
    local.ok(&["rm", "-f", "far"])?;
    instance.down()
}

pub fn a_port_without_certificates_is_refused() -> Result<()> {
    let dir = tempfile::tempdir()?;
    certificates(dir.path(), "ours")?;
    let ca = format!("--docker-tls-ca={}", dir.path().join("ours-ca.pem").display());
    let missing = format!("--docker-tls-cert={}", dir.path().join("none.pem").display());
    let key = format!("--docker-tls-key={}", dir.path().join("ours-server.key").display());
    for (flags, words) in [
        (&["--docker-tcp=127.0.0.1:2376"][..], "would make everybody who reaches it root of this host"),
        (&["--docker-tcp=127.0.0.1:2376", &ca], "give --docker-tls-ca, --docker-tls-cert and --docker-tls-key"),
        (&["--docker-tcp=127.0.0.1:2376", &ca, &missing, &key], "no PEM certificate in"),
        (&[&ca], "--docker-tcp"),
    ] {
        let mut command = Command::new(e2e::windlass().context("no windlass binary")?);
        command.args(["server", "--name", "dockerplain", "--data-dir"]).arg(dir.path().join("data")).args(flags);
        let refused = command::run(&mut command, None, LIMIT)?;
        ensure!(matches!(refused.code(), 2 | 3) && refused.stderr.contains(words), "{refused:?}");
    }
    Ok(())
}
