//! Flags of the Docker API: read for an agent, and handed on to it by the server that starts it.

use std::path::Path;

use crate::cli::DockerArgs;
use crate::exit::Unfit;

impl DockerArgs {
    /// The port to be served, if there is one.
    ///
    /// # Errors
    /// Without TLS on both sides, or with files that cannot be used.
    pub fn remote(&self) -> anyhow::Result<Option<dockerapi::Remote>> {
        let Some(address) = self.docker_tcp else { return Ok(None) };
        let files = (&self.docker_tls_ca, &self.docker_tls_cert, &self.docker_tls_key);
        let (Some(ca), Some(cert), Some(key)) = files else {
            return Err(Unfit::error(
                format!("the Docker API on {address} would make everybody who reaches it root of this host"),
                "give --docker-tls-ca, --docker-tls-cert and --docker-tls-key, and clients --tlsverify; or leave out --docker-tcp",
            ));
        };
        dockerapi::Remote::read(address, ca, cert, key).map(Some).map_err(|error| {
            Unfit::error(base::chain(&error), "see --docker-tls-ca and the flags after it in: windlass server --help")
        })
    }

    /// The same settings as words for another process.
    ///
    /// # Errors
    /// When the folder of this process is gone.
    pub fn words(&self) -> std::io::Result<Vec<String>> {
        let mut words: Vec<String> = self.docker_tcp.iter().map(|a| format!("--docker-tcp={a}")).collect();
        let files = [("ca", &self.docker_tls_ca), ("cert", &self.docker_tls_cert), ("key", &self.docker_tls_key)];
        for (name, file) in files {
            let absolute = file.as_deref().map(std::path::absolute).transpose()?;
            words.extend(absolute.as_deref().map(Path::display).map(|f| format!("--docker-tls-{name}={f}")));
        }
        Ok(words)
    }
}
