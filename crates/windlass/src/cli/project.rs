//! The verbs of a project: a folder with a Compose file, manifests or a kustomization.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Which project.
#[derive(Debug, Clone, Default, Args)]
pub struct ProjectArgs {
    /// Compose file, manifest, or a folder of either; may be repeated [default: what is in this folder]
    #[arg(short, long = "file", value_name = "PATH")]
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    pub more: MoreArgs,
}

/// What else says which project, and how its files are read.
#[derive(Debug, Clone, Default, Args)]
pub struct MoreArgs {
    /// Name of the project [default: from the Compose file, or the folder's name]
    #[arg(short, long, value_name = "NAME")]
    pub project_name: Option<String>,
    /// File of variables in place of .env; may be repeated
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// Profile whose services are wanted, too; may be repeated
    #[arg(long, value_name = "NAME")]
    pub profile: Vec<String>,
    /// What relative paths are relative to [default: the folder of the first file]
    #[arg(long, value_name = "DIR")]
    pub project_directory: Option<PathBuf>,
}

/// Arguments of `up`.
#[derive(Debug, Args)]
pub struct UpArgs {
    #[command(flatten)]
    pub project: ProjectArgs,
    /// Do not follow the logs once everything runs
    #[arg(short, long)]
    pub detach: bool,
    /// Take the images as they are
    #[arg(long)]
    pub no_build: bool,
    /// Leave a release that does not become healthy as it is
    #[arg(long)]
    pub no_rollback: bool,
    /// Seconds in which everything must be healthy
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub timeout: u64,
    /// Services to bring up with those that they wait for [default: all]
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,
}

/// Arguments of `convert`.
#[derive(Debug, Args)]
pub struct ConvertArgs {
    #[command(flatten)]
    pub project: ProjectArgs,
    /// Format
    #[arg(short, long, value_enum, default_value_t = OutputFormat::Yaml)]
    pub output: OutputFormat,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum OutputFormat {
    Yaml,
    Json,
}

/// Arguments of `logs`, whose `-f` is Docker's.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Compose file, manifest, or a folder of either; may be repeated [default: what is in this folder]
    #[arg(long = "file", value_name = "PATH")]
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    pub more: MoreArgs,
    /// Go on with what is written from now on
    #[arg(short, long)]
    pub follow: bool,
    /// So many lines from the end of each log
    #[arg(short = 'n', long, value_name = "LINES")]
    pub tail: Option<i64>,
    /// Services [default: all]
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,
}

/// Arguments of `rollback`.
#[derive(Debug, Args)]
pub struct RollbackArgs {
    #[command(flatten)]
    pub project: ProjectArgs,
    /// Number of the release to go back to [default: the one before the last]
    #[arg(long, value_name = "NUMBER")]
    pub to: Option<u64>,
    /// Seconds in which everything must be healthy
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub timeout: u64,
}

/// Arguments of `rm`.
#[derive(Debug, Args)]
pub struct RmArgs {
    #[command(flatten)]
    pub project: ProjectArgs,
    /// Remove the volumes, and what is in them, as well
    #[arg(short, long)]
    pub volumes: bool,
}
