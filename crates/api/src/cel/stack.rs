//! Room to recurse over an expression. Parser, evaluator and type check do, and a stack that runs over ends the process.

use std::io;

/// Up to this depth of an expression the stack of a request handler is enough, without optimisation too.
pub(super) const SHALLOW: usize = 32;
/// The stack for the deepest expression, bytes: without optimisation a level takes up to 40 KiB to evaluate. Only what is used
/// takes memory.
const STACK: usize = 64 << 20;

/// Does something here, or on a stack of its own, whose thread lives as long as it takes.
///
/// # Errors
/// There is no thread to be had.
pub(super) fn with_room<T: Send>(own: bool, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    if !own {
        return Ok(work());
    }
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("cel".to_owned()).stack_size(STACK).spawn_scoped(scope, work)?;
        thread.join().map_err(|_| io::Error::other("it panicked"))
    })
}
