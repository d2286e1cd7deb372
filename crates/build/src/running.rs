//! `RUN`: a command in a container, with what it mounts.

use std::any::Any;
use std::fs;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::mount::{MsFlags, mount};

use crate::copying::From;
use crate::dockerfile::{
    CacheSharing, Command, Heredoc, Mount, MountKind, Network, Run, Security, heredoc_of, parse_mount,
};
use crate::error::{BuildError, Result};
use crate::files::root::Root;
use crate::files::{Owner, Put, Request, choose, digest, put};
use crate::mount_points::MountPoints;
use crate::pattern::{Ignore, clean};
use crate::plan::PROXIES;
use crate::progress::Step;
use crate::run::{RunMount, RunSpec};
use crate::stage::Building;
use crate::step::{Mounted, key};

/// Most copies of a cache mount that is private.
const PRIVATE_MAX: usize = 64;

/// A mount, its variables replaced and its source known.
struct Planned {
    mount: Mount,
    /// Where it is in the container.
    target: String,
    from: Option<From>,
    /// What it adds to the key.
    said: String,
}

/// What mounts need as long as the command runs.
#[derive(Default)]
struct Held {
    mounts: Vec<RunMount>,
    env: Vec<(String, String)>,
    views: Vec<Mounted>,
    locks: Vec<fs::File>,
    /// Agents of SSH keys that answer until dropped.
    agents: Vec<Box<dyn Any + Send>>,
}

impl Building<'_> {
    /// `RUN`.
    pub fn run(&mut self, run: &Run, text: &str) -> Result<()> {
        if run.security == Security::Insecure && !self.solver.options.allow_insecure {
            return Err(BuildError::new("security.insecure is not allowed: say --allow security.insecure"));
        }
        let (args, script) = self.command(run);
        let planned = run.mounts.iter().map(|m| self.planned(m)).collect::<Result<Vec<_>>>()?;
        let env = self.run_env();
        let env_said: Vec<String> = env.iter().map(|(n, v)| format!("{n}={v}")).collect();
        let mounts_said: Vec<&str> = planned.iter().map(|p| p.said.as_str()).collect();
        let script_said = script.as_ref().map(Heredoc::text);
        let mut said = format!(
            "{:?}",
            (
                &args,
                env_said,
                mounts_said,
                script_said,
                &self.state.workdir,
                &self.state.user,
                self.network(run),
                run.security,
                self.solver.options.epoch,
            )
        );
        if !self.solver.options.hosts.is_empty() {
            said.push_str(&format!("{:?}", self.solver.options.hosts));
        }
        let key = key([self.key.as_str(), "run", &said]);
        let heredoc = run.heredocs.first().map(|h| summary(&h.content)).unwrap_or_default();
        let title = self.title(&format!("{text}{heredoc}"));
        let outcome = self.solver.step(title, &key, &self.layers, |mounted, step| {
            self.execute(run, &args, script.as_ref(), env, &planned, mounted, step)
        })?;
        let declared: Vec<String> =
            self.args.iter().filter_map(|(n, v)| v.as_ref().map(|v| format!("{n}={v}"))).collect();
        let prefix = match declared.len() {
            0 => String::new(),
            n => format!("|{n} {} ", declared.join(" ")),
        };
        self.take(outcome, key, &format!("RUN {prefix}{} # buildkit", args.join(" ")));
        Ok(())
    }

    fn network(&self, run: &Run) -> Network {
        if run.network == Network::Default { self.solver.options.network } else { run.network }
    }

    /// Program and arguments, and a script that is to be run as a file.
    fn command(&self, run: &Run) -> (Vec<String>, Option<Heredoc>) {
        let line = match &run.command {
            Command::Exec(words) => return (words.clone(), None),
            Command::Shell(line) => line,
        };
        match run.heredocs.as_slice() {
            [] => (self.state.shell_words(line), None),
            [only] if heredoc_of(line).is_some() => match only.text().starts_with("#!") {
                true => (vec![format!("{SCRIPTS}/{}", script_name(only))], Some(only.clone())),
                false => (self.state.shell_words(&only.text()), None),
            },
            several => {
                // The shell reads its documents itself.
                let mut whole = line.clone();
                for heredoc in several {
                    whole.push_str(&format!("\n{}{}", heredoc.content, heredoc.name));
                }
                (self.state.shell_words(&whole), None)
            }
        }
    }

    fn planned(&self, text: &str) -> Result<Planned> {
        let mount = parse_mount(&self.expand(text)?).map_err(BuildError::new)?;
        let target = mount.target.as_deref().map(|t| self.absolute(t)).unwrap_or_default();
        let target = if target.len() > 1 { target.trim_end_matches('/').to_owned() } else { target };
        let (from, said) = match &mount.kind {
            MountKind::Bind { from, source, .. } => {
                let found = self.source(from.as_deref())?;
                let what = match &found {
                    From::Dir { root, ignored } => digest(&self.chosen(root.clone(), source, *ignored)?)?,
                    From::Layers { key, .. } => format!("{key} {source}"),
                };
                (Some(found), format!("bind {what} {target} {:?}", mount.kind))
            }
            MountKind::Cache { from: Some(from), .. } => {
                (Some(self.source(Some(from))?), format!("cache {target} {:?}", mount.kind))
            }
            // What a cache or a secret holds is not what a result is made from.
            kind => (None, format!("{target} {kind:?}")),
        };
        Ok(Planned { mount, target, from, said })
    }

    fn chosen(&self, root: Arc<Root>, source: &str, ignored: bool) -> Result<Vec<crate::files::Chosen>> {
        let nothing = Ignore::default();
        let ignore = if ignored { &self.solver.ignore } else { &nothing };
        let sources = [clean(source)];
        let request = Request { root, sources: &sources, ignore, exclude: &nothing, parents: false };
        choose(&request).map_err(|e| BuildError::new(format!("failed to calculate checksum of the mount: {e}")))
    }

    #[allow(clippy::too_many_arguments, reason = "what was found out for the key is what is needed to run")]
    fn execute(
        &self,
        run: &Run,
        args: &[String],
        script: Option<&Heredoc>,
        env: Vec<(String, String)>,
        planned: &[Planned],
        mounted: &Mounted,
        step: &Step<'_>,
    ) -> Result<()> {
        let root = mounted.root()?;
        let mut held = Held::default();
        for (n, plan) in planned.iter().enumerate() {
            self.hold(plan, n, mounted, &mut held)?;
        }
        if let Some(script) = script {
            let dir = mounted.beside("script")?;
            let path = dir.join(script_name(script));
            write_secret(&path, script.text().as_bytes(), 0o755, Owner::default())?;
            held.mounts.push(RunMount::Bind { source: dir, target: SCRIPTS.into(), read_only: true });
        }
        let mut env = env;
        for (name, value) in &self.solver.options.args {
            if PROXIES.contains(&name.as_str()) && !env.iter().any(|(n, _)| n == name) {
                env.push((name.clone(), value.clone()));
            }
        }
        env.append(&mut held.env);
        let workdir = if self.state.workdir.is_empty() { "/" } else { &self.state.workdir };
        root.make_dirs(workdir.as_ref(), (0, 0), 0o755)
            .map_err(|e| BuildError::new(format!("cannot make the working directory {workdir}: {e}")))?;
        let targets: Vec<&Path> = held.mounts.iter().map(|m| m.target().as_path()).collect();
        let points = MountPoints::before(&root, &targets)?;
        let spec = RunSpec {
            rootfs: mounted.path.clone(),
            args: args.to_vec(),
            env,
            working_dir: workdir.to_owned(),
            user: self.state.user.clone(),
            mounts: std::mem::take(&mut held.mounts),
            network: self.network(run),
            hosts: self.solver.options.hosts.clone(),
            insecure: run.security == Security::Insecure,
        };
        let sink = |stream, bytes: &[u8]| step.output(stream, bytes);
        let result = self.solver.env.runner.run(&spec, &sink, self.solver.stop.subscribe());
        drop(held);
        self.solver.check_canceled()?;
        let code =
            result.map_err(|e| BuildError::new(format!("process \"{}\" could not be run: {e}", args.join(" "))))?;
        if code != 0 {
            let message = format!("process \"{}\" did not complete successfully: exit code: {code}", args.join(" "));
            return Err(BuildError { exit_code: Some(code), ..BuildError::new(message) });
        }
        points.after(&root).map_err(BuildError::from)
    }

    /// Makes what is mounted.
    fn hold(&self, plan: &Planned, n: usize, mounted: &Mounted, held: &mut Held) -> Result<()> {
        let target = PathBuf::from(&plan.target);
        match &plan.mount.kind {
            MountKind::Tmpfs { size } => held.mounts.push(RunMount::Tmpfs { target, size: *size }),
            MountKind::Ssh { id, required, mode, uid, gid } => {
                let owner = Owner { uid: *uid, gid: *gid };
                let Some((source, answering)) = self.agent(id, *mode, owner, n, mounted)? else {
                    return match required {
                        true => Err(BuildError::new(format!("no ssh agent {id} is forwarded (--ssh)"))),
                        false => Ok(()),
                    };
                };
                let target = match plan.mount.target {
                    Some(_) => target,
                    None => PathBuf::from(format!("/run/buildkit/ssh_agent.{}", held.agents.len())),
                };
                if held.agents.is_empty() {
                    held.env.push(("SSH_AUTH_SOCK".to_owned(), target.display().to_string()));
                }
                held.agents.push(answering);
                held.mounts.push(RunMount::Bind { source, target, read_only: false });
            }
            MountKind::Secret { id, env, required, mode, uid, gid } => {
                let given = match self.solver.options.secrets.get(id) {
                    Some(known) => Some(known.clone()),
                    None => self.solver.env.client.secret(id)?,
                };
                let Some(secret) = &given else {
                    return match required {
                        true => Err(BuildError::new(format!("secret {id}: not found"))),
                        false => Ok(()),
                    };
                };
                if let Some(name) = env {
                    held.env.push((name.clone(), String::from_utf8_lossy(secret).into_owned()));
                }
                if env.is_none() || plan.mount.target.is_some() {
                    let dir = secrets_dir(mounted)?;
                    let source = dir.join(n.to_string());
                    write_secret(&source, secret, *mode, Owner { uid: *uid, gid: *gid })?;
                    let target = match plan.mount.target {
                        Some(_) => target,
                        None => Path::new("/run/secrets").join(id),
                    };
                    held.mounts.push(RunMount::Bind { source, target, read_only: true });
                }
            }
            MountKind::Bind { source, writable, .. } => {
                let (source, read_only) = self.bind_source(plan, source, *writable, n, mounted, held)?;
                held.mounts.push(RunMount::Bind { source, target, read_only });
            }
            MountKind::Cache { read_only, .. } => {
                let source = self.cache_dir(plan, held)?;
                held.mounts.push(RunMount::Bind { source, target, read_only: *read_only });
            }
        }
        Ok(())
    }

    /// A socket on which the client's agent of SSH keys answers.
    fn agent(
        &self,
        id: &str,
        mode: u32,
        owner: Owner,
        n: usize,
        mounted: &Mounted,
    ) -> Result<Option<(PathBuf, Box<dyn Any + Send>)>> {
        let dir = mounted.beside("agents")?;
        let path = dir.join(n.to_string());
        let fail = |e: std::io::Error| BuildError::io("make", &path, &e);
        // Paths of sockets are short (unix(7)), those of folders need not be.
        let opened = fs::File::open(&dir).map_err(fail)?;
        let short = format!("/proc/self/fd/{}/{n}", opened.as_raw_fd());
        let socket = UnixListener::bind(short).map_err(fail)?;
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).map_err(fail)?;
        std::os::unix::fs::chown(&path, Some(owner.uid), Some(owner.gid)).map_err(fail)?;
        let answering = self.solver.env.client.agent(id, socket)?;
        Ok(answering.map(|answering| (path, answering)))
    }

    fn bind_source(
        &self,
        plan: &Planned,
        source: &str,
        writable: bool,
        n: usize,
        mounted: &Mounted,
        held: &mut Held,
    ) -> Result<(PathBuf, bool)> {
        let missing = |e: std::io::Error| BuildError::new(format!("{source:?} of the mount at {}: {e}", plan.target));
        match plan.from.as_ref() {
            Some(From::Layers { layers, .. }) => {
                let view = Mounted::new(self.solver, layers)?;
                let real = view.root()?.real(Path::new(source.trim_start_matches('/'))).map_err(missing)?;
                let path = view.path.join(real);
                held.views.push(view);
                Ok((path, !writable))
            }
            Some(From::Dir { root, ignored }) => {
                // A copy: what is left out of the context is not seen, and what is written is thrown away.
                let copy = mounted.beside(&format!("bind-{n}"))?;
                let chosen = self.chosen(root.clone(), source, *ignored)?;
                let into = Root::open(&copy).map_err(missing)?;
                let is_file = chosen.first().is_some_and(|c| !c.is_dir());
                let how = Put { into: &into, target: "/", owner: Owner::default(), modes: None, parents: false };
                put(&chosen, &how).map_err(missing)?;
                let name = chosen.first().map(|c| c.name.clone()).unwrap_or_default();
                Ok((if is_file { copy.join(name) } else { copy }, !writable))
            }
            None => Err(BuildError::new(format!("the mount at {} has no source", plan.target))),
        }
    }

    /// The folder of a cache mount, locked as long as its sharing says.
    fn cache_dir(&self, plan: &Planned, held: &mut Held) -> Result<PathBuf> {
        let MountKind::Cache { id, sharing, source, mode, uid, gid, .. } = &plan.mount.kind else {
            return Err(BuildError::new("not a cache mount"));
        };
        let id = id.as_deref().unwrap_or(&plan.target);
        let all = self.solver.env.dir.join("cache-mounts");
        let fail = |e: std::io::Error| BuildError::io("cache mount", &all, &e);
        fs::create_dir_all(&all).map_err(fail)?;
        let name = key(["cache", id]);
        let lock_of = |name: &str| {
            fs::File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(all.join(format!("{name}.lock")))
                .map_err(fail)
        };
        let mut chosen = name.clone();
        match sharing {
            CacheSharing::Shared => {}
            CacheSharing::Locked => {
                let lock = lock_of(&name)?;
                lock.lock().map_err(fail)?;
                held.locks.push(lock);
            }
            CacheSharing::Private => {
                let free = (0..PRIVATE_MAX).find_map(|n| {
                    let name = if n == 0 { name.clone() } else { format!("{name}-{n}") };
                    let lock = lock_of(&name).ok()?;
                    lock.try_lock().is_ok().then_some((name, lock))
                });
                let (name, lock) =
                    free.ok_or_else(|| BuildError::new(format!("{PRIVATE_MAX} copies of cache {id} are in use")))?;
                held.locks.push(lock);
                chosen = name;
            }
        }
        let dir = all.join(chosen);
        // Whoever comes second sees a whole one.
        let making = lock_of("making")?;
        making.lock().map_err(fail)?;
        if !dir.exists() {
            let part = dir.with_extension("part");
            let _ = fs::remove_dir_all(&part);
            fs::create_dir(&part).map_err(fail)?;
            if let Some(from) = &plan.from {
                self.fill(from, source.as_deref().unwrap_or("/"), &part)?;
            }
            std::os::unix::fs::chown(&part, Some(*uid), Some(*gid)).map_err(fail)?;
            fs::set_permissions(&part, std::os::unix::fs::PermissionsExt::from_mode(*mode)).map_err(fail)?;
            fs::rename(&part, &dir).map_err(fail)?;
        }
        dir.canonicalize().map_err(fail)
    }

    fn fill(&self, from: &From, source: &str, into: &Path) -> Result<()> {
        let into = Root::open(into)?;
        let how = Put { into: &into, target: "/", owner: Owner::default(), modes: None, parents: false };
        match from {
            From::Dir { root, ignored } => Ok(put(&self.chosen(root.clone(), source, *ignored)?, &how)?),
            From::Layers { layers, .. } => {
                let view = Mounted::new(self.solver, layers)?;
                Ok(put(&self.chosen(Arc::new(view.root()?), source, false)?, &how)?)
            }
        }
    }
}

/// Where a heredoc that is a script is found.
const SCRIPTS: &str = "/dev/pipes";

fn script_name(heredoc: &Heredoc) -> String {
    heredoc.name.chars().map(|c| if c == '/' { '_' } else { c }).collect()
}

/// ` (first line...)`
fn summary(content: &str) -> String {
    let mut lines = content.lines().filter(|l| !l.trim().is_empty());
    let first = lines.next().unwrap_or_default().trim();
    let more = if lines.next().is_some() { "..." } else { "" };
    format!(" ({first}{more})")
}

/// Memory: a secret never reaches a disk.
fn secrets_dir(mounted: &Mounted) -> Result<PathBuf> {
    let dir = mounted.beside("secrets")?;
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let point = dir.display().to_string();
    if !table.lines().any(|l| l.split(' ').nth(4) == Some(&point)) {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("secrets"), &dir, Some("tmpfs"), flags, Some("mode=700,size=16m"))
            .map_err(|e| BuildError::io("mount memory for secrets on", &dir, &e.into()))?;
    }
    Ok(dir)
}

fn write_secret(path: &Path, bytes: &[u8], mode: u32, owner: Owner) -> Result<()> {
    let write = || {
        fs::write(path, bytes)?;
        std::os::unix::fs::chown(path, Some(owner.uid), Some(owner.gid))?;
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))
    };
    write().map_err(|e| BuildError::io("write", path, &e))
}
