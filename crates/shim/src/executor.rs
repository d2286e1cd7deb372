//! The last steps before the container's own program runs. Ours instead of libcontainer's default because errors are to
//! read as the field knows them, and because libcontainer runs exec'd commands without the container's seccomp filter.

use std::collections::HashMap;
use std::ffi::{CString, OsString};
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use libcontainer::capabilities::drop_privileges;
use libcontainer::oci_spec::runtime::{LinuxCapabilities, LinuxSeccomp, Spec};
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use nix::errno::Errno;

/// Replaces the process by the container's program.
#[derive(Clone)]
pub(crate) struct Program {
    /// Close-on-exec end of a pipe: closes silently when exec succeeds, carries the reason when it does not.
    pub failure: RawFd,
    /// Filter and final capabilities of an exec'd command; the container's own process gets both from libcontainer.
    pub confine: Option<Confinement>,
    /// The container's own process, in whose mount namespace the masks were just made: they are looked at. An exec'd
    /// command comes into a namespace that was.
    pub first: bool,
}

/// What libcontainer leaves out for commands run in a container.
#[derive(Clone)]
pub(crate) struct Confinement {
    /// The container's users, where they are not the host's: until then the process is root of the host.
    pub identity: Option<Identity>,
    /// The container's filter.
    pub seccomp: Option<LinuxSeccomp>,
    /// Capabilities to end with; until the filter is loaded the process has CAP_SYS_ADMIN besides.
    pub capabilities: Option<LinuxCapabilities>,
}

/// Who a command is in a user namespace that libcontainer, which joins all others, leaves out for commands.
#[derive(Clone)]
pub(crate) struct Identity {
    /// The namespace.
    pub users: Arc<OwnedFd>,
    /// User and group in it.
    pub uid: u32,
    pub gid: u32,
    /// Further groups in it.
    pub groups: Vec<u32>,
}

impl Identity {
    fn assume(&self) -> Result<(), Errno> {
        use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
        nix::sched::setns(&*self.users, nix::sched::CloneFlags::CLONE_NEWUSER)?;
        setgroups(&self.groups.iter().copied().map(Gid::from_raw).collect::<Vec<_>>())?;
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        setresgid(gid, gid, gid)?;
        setresuid(uid, uid, uid)
    }
}

/// The program, looked up as execvp(3) does, or why not, in the words of Go's os/exec that operators know from runc.
fn find(program: &str, path_variable: &str) -> Result<PathBuf, String> {
    let quoted = format!("exec: {program:?}");
    if program.is_empty() {
        return Err(format!("{quoted}: executable file not found in $PATH"));
    }
    if program.contains('/') {
        return check(Path::new(program)).map(|()| PathBuf::from(program)).map_err(|e| match e {
            Errno::ENOENT => format!("{quoted}: stat {program}: no such file or directory"),
            e => format!("{quoted}: {}", words(e)),
        });
    }
    let mut denied = false;
    for dir in path_variable.split(':') {
        let candidate = Path::new(if dir.is_empty() { "." } else { dir }).join(program);
        match check(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(Errno::EACCES) => denied = true,
            Err(_) => {}
        }
    }
    Err(if denied {
        format!("{quoted}: permission denied")
    } else {
        format!("{quoted}: executable file not found in $PATH")
    })
}

fn check(path: &Path) -> Result<(), Errno> {
    let metadata = path.metadata().map_err(|e| e.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
    if metadata.is_dir() {
        return Err(Errno::EISDIR);
    }
    if metadata.permissions().mode() & 0o111 == 0 {
        return Err(Errno::EACCES);
    }
    Ok(())
}

fn words(errno: Errno) -> String {
    let text = errno.desc();
    let mut letters = text.chars();
    letters.next().map(|c| c.to_lowercase().collect::<String>() + letters.as_str()).unwrap_or_default()
}

fn program_of(spec: &Spec) -> Result<(PathBuf, Vec<CString>), String> {
    let process = spec.process().as_ref().ok_or("no process in the spec")?;
    let args = process.args().as_ref().filter(|a| !a.is_empty()).ok_or("no command specified")?;
    let environment = process.env().as_deref().unwrap_or_default();
    let path = environment.iter().find_map(|e| e.strip_prefix("PATH=")).unwrap_or("");
    let found = find(&args[0], path)?;
    let args: Result<Vec<_>, _> = args.iter().map(|a| CString::new(a.as_bytes())).collect();
    Ok((found, args.map_err(|_| "an argument contains a NUL byte")?))
}

/// This process's environment, which libcontainer made out of the spec's and left in the order of a hash table, in the
/// order of the spec: a program that prints it prints the same each time, as under runc. What was added comes last.
fn environment_of(spec: &Spec) -> Vec<CString> {
    let listed = spec.process().as_ref().and_then(|p| p.env().as_deref()).unwrap_or_default();
    in_order(listed, std::env::vars_os())
}

fn in_order(listed: &[String], variables: impl Iterator<Item = (OsString, OsString)>) -> Vec<CString> {
    let mut places: HashMap<&[u8], usize> = HashMap::new();
    for (place, pair) in listed.iter().enumerate() {
        places.entry(pair.split('=').next().unwrap_or_default().as_bytes()).or_insert(place);
    }
    let mut variables: Vec<_> = variables.collect();
    variables
        .sort_by_cached_key(|(name, _)| (places.get(name.as_bytes()).copied().unwrap_or(usize::MAX), name.clone()));
    // None holds a NUL byte: they come out of `environ`.
    variables
        .iter()
        .filter_map(|(name, value)| CString::new([name.as_bytes(), value.as_bytes()].join(&b'=')).ok())
        .collect()
}

impl Program {
    fn run(&self, spec: &Spec) -> Result<(), String> {
        let (path, args) = program_of(spec)?;
        let path = CString::new(path.into_os_string().into_encoded_bytes()).map_err(|e| e.to_string())?;
        if let Some(confine) = &self.confine {
            if let Some(identity) = &confine.identity {
                identity.assume().map_err(|e| format!("user namespace: {}", words(e)))?;
            }
            if let Some(seccomp) = &confine.seccomp {
                libcontainer::seccomp::initialize_seccomp(seccomp).map_err(|e| chain("seccomp", &e))?;
            }
            if let Some(capabilities) = &confine.capabilities {
                drop_privileges(capabilities, &*SyscallType::default().create_syscall())
                    .map_err(|e| chain("capabilities", &e))?;
            }
        }
        let error = match nix::unistd::execve(&path, &args, &environment_of(spec)) {
            Err(error) => error,
            Ok(never) => match never {},
        };
        // ENOENT for a file that is there: its interpreter (`#!`) or loader is not.
        Err(format!("exec {}: {}", path.to_string_lossy(), words(error)))
    }
}

impl Executor for Program {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let Err(message) = self.run(spec) else { unreachable!("exec does not come back") };
        crate::sys::write_inherited(self.failure, message.as_bytes());
        Err(ExecutorError::Other(message))
    }

    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let masked = if self.first { crate::verify::masks(spec) } else { Ok(()) };
        masked.and_then(|()| program_of(spec).map(drop)).map_err(|message| {
            crate::sys::write_inherited(self.failure, message.as_bytes());
            ExecutorValidationError::ArgValidationError(message)
        })
    }
}

/// An error and its causes on one line.
pub(crate) fn chain(what: &str, error: &dyn std::error::Error) -> String {
    let mut text = format!("{what}: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        // libcontainer wraps the same words several times over.
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_keep_the_order_of_the_spec() {
        let pair = |name: &str, value: &str| (OsString::from(name), OsString::from(value));
        let listed = ["PATH=/bin", "B=1", "A=2", "B=3"].map(str::to_owned);
        let made = [pair("HOME", "/"), pair("A", "2"), pair("B", "3"), pair("PATH", "/bin")];
        let wanted = ["PATH=/bin", "B=3", "A=2", "HOME=/"].map(|w| CString::new(w).unwrap());
        assert_eq!(in_order(&listed, made.into_iter()), wanted);
    }

    #[test]
    fn errors_read_as_runc_words_them() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("plain"), "").unwrap();
        let path = dir.path().to_str().unwrap();
        assert_eq!(find("foo", path).unwrap_err(), "exec: \"foo\": executable file not found in $PATH");
        assert_eq!(find("plain", path).unwrap_err(), "exec: \"plain\": permission denied");
        assert_eq!(find("/no/such", path).unwrap_err(), "exec: \"/no/such\": stat /no/such: no such file or directory");
        assert_eq!(find(path, "").unwrap_err(), format!("exec: {path:?}: is a directory"));
        assert_eq!(find("sh", "/nowhere:/bin").unwrap(), Path::new("/bin/sh"));
    }
}
