//! What libcontainer calls of its CRIU client, for a container engine that makes no checkpoints. The real one brings a compiler
//! for protocol buffers into every build, a twentieth of its time, for code that nothing here can reach.
//!
//! A [`Criu`] cannot be made: [`Criu::new`] fails, and after that nothing else can be called.

use std::fmt;
use std::os::fd::RawFd;

/// How checkpoints would treat cgroups; kept by libcontainer in options that nobody fills in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CgMode {
    /// CRIU's own choice.
    DEFAULT,
}

/// A client of CRIU: there is none.
#[derive(Debug)]
pub enum Criu {}

/// Checkpoints are not supported.
#[derive(Debug)]
pub struct CriuError;

impl fmt::Display for CriuError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("checkpoints are not supported")
    }
}

impl std::error::Error for CriuError {}

impl Criu {
    /// # Errors
    /// Always.
    pub fn new() -> Result<Self, CriuError> {
        Err(CriuError)
    }

    /// # Errors
    /// Never: it cannot be called.
    pub fn get_criu_version(&mut self) -> Result<u32, CriuError> {
        match *self {}
    }

    /// # Errors
    /// Never: it cannot be called.
    pub fn dump(&mut self) -> Result<(), CriuError> {
        match *self {}
    }

    /// Cannot be called.
    pub fn set_external_mount(&mut self, _: String, _: String) {
        match *self {}
    }
}

/// Declares setters of one argument, none of which can be called.
macro_rules! setters {
    ($($name:ident: $kind:ty),* $(,)?) => {
        impl Criu {
            $(
                /// Cannot be called.
                pub fn $name(&mut self, _: $kind) {
                    match *self {}
                }
            )*
        }
    };
}

setters! {
    add_external: String,
    cgroups_mode: CgMode,
    set_ext_unix_sk: bool,
    set_file_locks: bool,
    set_images_dir_fd: RawFd,
    set_leave_running: bool,
    set_link_remap: bool,
    set_log_file: String,
    set_log_level: i32,
    set_manage_cgroups: bool,
    set_orphan_pts_master: bool,
    set_pid: i32,
    set_root: String,
    set_shell_job: bool,
    set_tcp_established: bool,
    set_work_dir_fd: RawFd,
}

/// The key under which CRIU knows a namespace; nothing asks for one.
pub fn criu_ns_to_key(name: &str) -> String {
    name.to_owned()
}
