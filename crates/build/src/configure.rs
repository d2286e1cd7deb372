//! Instructions that change the configuration of an image and none of its files.

use std::collections::BTreeMap;

use crate::dockerfile::Op;
use crate::error::{BuildError, Result};
use crate::expand;
use crate::state::{State, ports};

/// Most variables' bytes that a stage carries.
const ENV_BYTES_MAX: usize = 4 << 20;

/// Variables in reach of an instruction.
pub struct Scope {
    /// By name; `ENV` has won over `ARG`.
    pub values: BTreeMap<String, String>,
    /// What quotes the next character.
    pub escape: char,
}

impl Scope {
    /// Replaces variables.
    pub fn word(&self, text: &str) -> Result<String> {
        expand::word(text, self.escape, &|name| self.values.get(name).cloned())
            .map_err(|e| BuildError::new(format!("failed to process {text:?}: {e}")))
    }

    fn words(&self, text: &str) -> Result<Vec<String>> {
        expand::words(text, self.escape, &|name| self.values.get(name).cloned())
            .map_err(|e| BuildError::new(format!("failed to process {text:?}: {e}")))
    }
}

impl State {
    /// Instructions that change the configuration only.
    ///
    /// # Errors
    /// A variable that must be set, a port or signal that is none.
    pub fn configure(&mut self, op: &Op, scope: &Scope) -> Result<()> {
        match op {
            Op::Env(pairs) => {
                // All of one instruction see what was before it.
                let values =
                    pairs.iter().map(|(n, v)| Ok((scope.word(n)?, scope.word(v)?))).collect::<Result<Vec<_>>>()?;
                values.into_iter().for_each(|(name, value)| self.set_env(&name, value));
                if self.env.iter().map(|(n, v)| n.len() + v.len()).sum::<usize>() > ENV_BYTES_MAX {
                    return Err(BuildError::new(format!("the environment is larger than {ENV_BYTES_MAX} bytes")));
                }
            }
            Op::Label(pairs) => {
                for (name, value) in pairs {
                    let (name, value) = (scope.word(name)?, scope.word(value)?);
                    self.labels.insert(name, value);
                }
            }
            Op::Cmd(command) => {
                self.cmd = self.words(command);
                self.cmd_is_own = true;
            }
            Op::Entrypoint(command) => {
                self.entrypoint = self.words(command);
                if !self.cmd_is_own {
                    self.cmd.clear();
                }
            }
            Op::Expose(list) => {
                for text in list {
                    for word in scope.words(text)? {
                        self.exposed.extend(ports(&word)?);
                    }
                }
            }
            Op::User(user) => self.user = scope.word(user)?,
            Op::Volume(list) => {
                for text in list {
                    let path = scope.word(text)?;
                    if path.is_empty() {
                        return Err(BuildError::new("VOLUME specified can not be an empty string"));
                    }
                    self.volumes.insert(path);
                }
            }
            Op::StopSignal(signal) => {
                let signal = scope.word(signal)?;
                let number = signal.parse::<u8>().is_ok_and(|n| (1..=64).contains(&n));
                let name = signal.trim_start_matches("SIG");
                let named = !name.is_empty()
                    && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || "+-".contains(c));
                if !number && (!named || signal.parse::<i64>().is_ok()) {
                    return Err(BuildError::new(format!("invalid signal: {signal}")));
                }
                self.stop_signal = signal;
            }
            Op::Healthcheck(health) => self.set_health(health.as_ref()),
            Op::Onbuild(text) => self.onbuild.push(text.clone()),
            Op::Shell(words) => self.shell = words.clone(),
            Op::Maintainer(name) => self.author = scope.word(name)?,
            // Steps and arguments never come here.
            Op::Run(_) | Op::Copy(_) | Op::Workdir(_) | Op::Arg(_) => {}
        }
        Ok(())
    }
}
