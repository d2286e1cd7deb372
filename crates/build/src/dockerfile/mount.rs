//! `RUN --mount`, `--network`, `--security`.

use super::flags::truth;

/// How several builds share a cache mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheSharing {
    /// All at once.
    #[default]
    Shared,
    /// Each a copy of its own while another has it.
    Private,
    /// One after the other.
    Locked,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountKind {
    /// A folder of the context, a stage or an image; writes to it are thrown away.
    Bind {
        /// Stage or image; `None` is the context.
        from: Option<String>,
        /// Folder or file in it.
        source: String,
        /// Writes are allowed (and lost).
        writable: bool,
    },
    /// A folder that outlives the build.
    Cache {
        /// What it is called; its target when nothing is said.
        id: Option<String>,
        /// Among several builds.
        sharing: CacheSharing,
        /// What it begins with.
        from: Option<String>,
        /// Where in that.
        source: Option<String>,
        /// Mode of the folder when it is made.
        mode: u32,
        /// Its owner when it is made.
        uid: u32,
        /// Its group when it is made.
        gid: u32,
        /// No writes.
        read_only: bool,
    },
    /// A secret, as a file or as a variable.
    Secret {
        /// What it is called on the command line.
        id: String,
        /// The variable that has it.
        env: Option<String>,
        /// The build fails without it.
        required: bool,
        /// Of the file.
        mode: u32,
        /// Of the file.
        uid: u32,
        /// Of the file.
        gid: u32,
    },
    /// An agent of SSH keys.
    Ssh {
        /// Which of the client's.
        id: String,
        /// The build fails without it.
        required: bool,
        /// Of the socket.
        mode: u32,
        /// Of the socket.
        uid: u32,
        /// Of the socket.
        gid: u32,
    },
    /// Memory.
    Tmpfs {
        /// Limit in bytes.
        size: Option<u64>,
    },
}

/// One `--mount`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// What.
    pub kind: MountKind,
    /// Where; `None` for a secret that is a variable only, or an agent at its own place.
    pub target: Option<String>,
}

/// `RUN --network`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Network {
    /// That of the build.
    #[default]
    Default,
    /// None.
    None,
    /// The host's.
    Host,
}

/// `RUN --security`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Security {
    /// As containers run.
    #[default]
    Sandbox,
    /// Privileged.
    Insecure,
}

/// Reads the value of `--mount`, its variables replaced.
pub fn parse(text: &str) -> Result<Mount, String> {
    let mut fields = Fields::read(text)?;
    let kind = fields.take(&["type"])?.unwrap_or_else(|| "bind".to_owned());
    let target = fields.take(&["target", "dst", "destination"])?;
    let need = |target: &Option<String>| match target {
        Some(_) => Ok(()),
        None => Err("target is required for a mount".to_owned()),
    };
    let kind = match kind.as_str() {
        "bind" => {
            need(&target)?;
            let writable = fields.switch(&["rw", "readwrite"])?.unwrap_or(false);
            let read_only = fields.switch(&["ro", "readonly"])?.unwrap_or(!writable);
            let from = fields.take(&["from"])?;
            let source = fields.take(&["source", "src"])?.unwrap_or_else(|| "/".to_owned());
            MountKind::Bind { from, source, writable: !read_only }
        }
        "cache" => {
            need(&target)?;
            let sharing = match fields.take(&["sharing"])?.as_deref() {
                None | Some("shared") => CacheSharing::Shared,
                Some("private") => CacheSharing::Private,
                Some("locked") => CacheSharing::Locked,
                Some(other) => return Err(format!("unsupported sharing value {other:?}")),
            };
            MountKind::Cache {
                id: fields.take(&["id"])?,
                sharing,
                from: fields.take(&["from"])?,
                source: fields.take(&["source", "src"])?,
                mode: fields.octal("mode")?.unwrap_or(0o755),
                uid: fields.number("uid")?.unwrap_or(0),
                gid: fields.number("gid")?.unwrap_or(0),
                read_only: fields.switch(&["ro", "readonly"])?.unwrap_or(false),
            }
        }
        "tmpfs" => {
            need(&target)?;
            MountKind::Tmpfs { size: fields.take(&["size"])?.map(|s| bytes(&s)).transpose()? }
        }
        "secret" => {
            let id = fields.take(&["id"])?;
            let base = |t: &String| t.rsplit('/').next().unwrap_or_default().to_owned();
            let id = id.or_else(|| target.as_ref().map(base)).filter(|id| !id.is_empty());
            MountKind::Secret {
                id: id.ok_or("invalid secret mount, one of the target and id must be set")?,
                env: fields.take(&["env"])?,
                required: fields.switch(&["required"])?.unwrap_or(false),
                mode: fields.octal("mode")?.unwrap_or(0o400),
                uid: fields.number("uid")?.unwrap_or(0),
                gid: fields.number("gid")?.unwrap_or(0),
            }
        }
        "ssh" => MountKind::Ssh {
            id: fields.take(&["id"])?.filter(|id| !id.is_empty()).unwrap_or_else(|| "default".to_owned()),
            required: fields.switch(&["required"])?.unwrap_or(false),
            mode: fields.octal("mode")?.unwrap_or(0o600),
            uid: fields.number("uid")?.unwrap_or(0),
            gid: fields.number("gid")?.unwrap_or(0),
        },
        other => return Err(format!("unsupported mount type {other:?}")),
    };
    fields.end()?;
    Ok(Mount { kind, target })
}

struct Fields(Vec<(String, Option<String>)>);

impl Fields {
    /// Fields between commas; one in double quotes may have commas (RFC 4180, as Docker reads it).
    fn read(text: &str) -> Result<Fields, String> {
        let mut fields = vec![String::new()];
        let mut quoted = false;
        for c in text.chars() {
            match c {
                '"' => quoted = !quoted,
                ',' if !quoted => fields.push(String::new()),
                c => fields.last_mut().expect("there is always one").push(c),
            }
        }
        let split = |field: &String| match field.split_once('=') {
            Some((key, value)) => (key.trim().to_ascii_lowercase(), Some(value.to_owned())),
            None => (field.trim().to_ascii_lowercase(), None),
        };
        if quoted {
            return Err("a quote is not closed in --mount".to_owned());
        }
        Ok(Fields(fields.iter().filter(|f| !f.is_empty()).map(split).collect()))
    }

    fn take_raw(&mut self, names: &[&str]) -> Option<(String, Option<String>)> {
        // The last one counts, as with Docker.
        self.0.extract_if(.., |(n, _)| names.contains(&n.as_str())).last()
    }

    fn take(&mut self, names: &[&str]) -> Result<Option<String>, String> {
        match self.take_raw(names) {
            None => Ok(None),
            Some((_, Some(value))) => Ok(Some(value)),
            Some((name, None)) => Err(format!("invalid field '{name}' must be a key=value pair")),
        }
    }

    fn switch(&mut self, names: &[&str]) -> Result<Option<bool>, String> {
        let Some((name, value)) = self.take_raw(names) else { return Ok(None) };
        let value = value.unwrap_or_else(|| "true".to_owned());
        truth(&value).map(Some).ok_or_else(|| format!("invalid value for {name}: {value}"))
    }

    fn number(&mut self, name: &str) -> Result<Option<u32>, String> {
        let parse = |v: String| v.parse().map_err(|_| format!("invalid value {v} for {name}"));
        self.take(&[name])?.map(parse).transpose()
    }

    fn octal(&mut self, name: &str) -> Result<Option<u32>, String> {
        let parse = |v: String| match u32::from_str_radix(v.trim_start_matches("0o"), 8) {
            Ok(mode) if mode <= 0o7777 => Ok(mode),
            _ => Err(format!("invalid value {v} for {name}")),
        };
        self.take(&[name])?.map(parse).transpose()
    }

    fn end(self) -> Result<(), String> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(format!("unexpected key '{name}' in --mount")),
        }
    }
}

/// `64m`, `1g`, plain bytes.
fn bytes(text: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let scale = match &lower[digits.len()..] {
        "" | "b" => 1u64,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        _ => return Err(format!("invalid size {text:?}")),
    };
    digits.parse::<u64>().ok().and_then(|n| n.checked_mul(scale)).ok_or_else(|| format!("invalid size {text:?}"))
}
