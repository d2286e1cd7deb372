//! Logs, exec, attach.

use std::sync::Arc;
use std::time::Duration;

use engine::runtime::{ContainerRuntime, ExecSpec, RuntimeError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::{LIMIT, World, until, wait_exit};

fn command(id: &str, args: &[&str]) -> ExecSpec {
    ExecSpec {
        container_id: id.into(),
        command: args.iter().map(|s| (*s).to_owned()).collect(),
        stdout: true,
        ..ExecSpec::default()
    }
}

/// Reads until the text was seen.
async fn expect(stream: &mut (impl AsyncReadExt + Unpin), text: &str) -> String {
    let mut seen = String::new();
    let read = async {
        let mut buffer = [0; 1024];
        while !seen.contains(text) {
            let n = stream.read(&mut buffer).await.unwrap();
            assert_ne!(n, 0, "ended without {text:?}: {seen:?}");
            seen.push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
    };
    if tokio::time::timeout(LIMIT, read).await.is_err() {
        panic!("no {text:?} in {seen:?}");
    }
    seen
}

pub async fn logs_are_cut_and_rotated(w: Arc<World>) {
    let sandbox = w.sandbox().await;
    let long = w.shell(&sandbox, "head -c 40000 /dev/zero | tr '\\0' x; echo; printf tail");
    w.run(&long).await;
    let raw = std::fs::read_to_string(&long.log_path).unwrap();
    let tags: Vec<_> = raw.lines().map(|l| l.split(' ').nth(2).unwrap()).collect();
    assert_eq!(tags, ["P", "P", "F", "F"]);
    assert_eq!(raw.matches('x').count(), 40_000);
    let mut many = w.shell(&sandbox, "i=0; while [ $i -lt 5000 ]; do echo line $i; i=$((i+1)); done");
    many.log_max_size = 20_000;
    many.log_max_files = 3;
    w.run(&many).await;
    let dir = many.log_path.parent().unwrap();
    assert_eq!(std::fs::read_dir(dir).unwrap().count(), 3);
    assert!(std::fs::read_to_string(&many.log_path).unwrap().ends_with(" stdout F line 4999\n"));
    w.engine().remove_sandbox(&sandbox.id).await.unwrap();
    assert!(many.log_path.exists(), "the log outlives its container");
}

pub async fn exec_gives_streams_status_and_words(w: Arc<World>) {
    let sandbox = w.sandbox().await;
    let spec = w.shell(&sandbox, "sleep 1000");
    w.start(&spec).await;
    assert_eq!(w.exec(&spec.id, &["sh", "-c", "echo out; pwd; exit 5"]).await, (5, "out\n/made/by/image\n".into()));
    let both =
        ExecSpec { stderr: true, stdin: true, ..command(&spec.id, &["sh", "-c", "cat; echo e >&2; kill -9 $$"]) };
    let mut session = w.engine().exec(both).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    tokio::spawn(async move { stdin.write_all(&vec![b'z'; 300_000]).await.unwrap() });
    let (mut out, mut err) = (Vec::new(), String::new());
    session.stdout.take().unwrap().read_to_end(&mut out).await.unwrap();
    session.stderr.take().unwrap().read_to_string(&mut err).await.unwrap();
    assert_eq!((out.len(), err.as_str()), (300_000, "e\n"));
    assert_eq!(session.exit.await.unwrap(), 137);
    let Err(missing) = w.engine().exec(command(&spec.id, &["nope"])).await else { panic!("there is no nope") };
    assert_eq!(missing.to_string(), "exec: exec: \"nope\": executable file not found in $PATH");
    w.engine().stop_container(&spec.id, Duration::ZERO).await.unwrap();
    let late = w.engine().exec(command(&spec.id, &["true"])).await;
    assert!(matches!(late.err(), Some(RuntimeError::Conflict { .. })));
    w.engine().remove_sandbox(&sandbox.id).await.unwrap();
}

pub async fn exec_on_a_terminal_can_be_resized(w: Arc<World>) {
    let sandbox = w.sandbox().await;
    let spec = w.shell(&sandbox, "sleep 1000");
    w.start(&spec).await;
    let shell = ExecSpec { tty: true, stdin: true, ..command(&spec.id, &["sh"]) };
    let mut session = w.engine().exec(shell).await.unwrap();
    assert!(session.stderr.is_none());
    let (mut stdin, mut stdout) = (session.stdin.take().unwrap(), session.stdout.take().unwrap());
    session.resize.as_ref().unwrap().send((123, 45)).await.unwrap();
    let mut seen = String::new();
    while !seen.contains("45 123") {
        stdin.write_all(b"stty size; tty; echo $TERM\n").await.unwrap();
        seen = expect(&mut stdout, "xterm\r\n").await;
    }
    assert!(seen.contains("/dev/pts/"), "{seen}");
    stdin.write_all(b"exit 9\n").await.unwrap();
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).await.unwrap();
    assert_eq!(session.exit.await.unwrap(), 9);
    w.engine().remove_sandbox(&sandbox.id).await.unwrap();
}

pub async fn a_dropped_exec_is_killed(w: Arc<World>) {
    let sandbox = w.sandbox().await;
    let spec = w.shell(&sandbox, "sleep 1000");
    w.start(&spec).await;
    let pod = format!("{}/{}", w.instance.cgroup_parent(), sandbox.cgroup);
    let quiet = shim::cgroup::processes(&pod);
    let session = w.engine().exec(command(&spec.id, &["sh", "-c", "sleep 5555 & sleep 5556"])).await.unwrap();
    until("the command runs", || shim::cgroup::processes(&pod).len() > quiet.len()).await;
    drop(session);
    until("the command is gone", || shim::cgroup::processes(&pod) == quiet).await;
    w.engine().remove_sandbox(&sandbox.id).await.unwrap();
}

pub async fn attach_reads_and_writes(w: Arc<World>) {
    let sandbox = w.sandbox().await;
    let mut spec = w.shell(&sandbox, "while read x; do echo got $x; done; echo end; exit 4");
    spec.stdin = true;
    spec.stdin_once = true;
    w.engine().create_container(spec.clone()).await.unwrap();
    // Attached before the start: nothing is missed.
    let mut session = w.engine().attach(&spec.id).await.unwrap();
    let mut watcher = w.engine().attach(&spec.id).await.unwrap();
    assert!(watcher.stdin.is_none(), "the input was given away");
    w.engine().start_container(&spec.id).await.unwrap();
    let (mut stdin, mut stdout) = (session.stdin.take().unwrap(), session.stdout.take().unwrap());
    stdin.write_all(b"one\n").await.unwrap();
    expect(&mut stdout, "got one\n").await;
    drop(stdin);
    expect(&mut stdout, "end\n").await;
    assert_eq!(session.exit.await.unwrap(), 4);
    let mut text = String::new();
    watcher.stdout.take().unwrap().read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "got one\nend\n");
    assert_eq!(w.log(&spec), "got one\nend\n");
    let mut loud = w.shell(&sandbox, "head -c 4000000 /dev/zero | tr '\\0' y | fold; echo fin");
    loud.stdin = false;
    w.engine().create_container(loud.clone()).await.unwrap();
    let idle = w.engine().attach(&loud.id).await.unwrap();
    w.engine().start_container(&loud.id).await.unwrap();
    assert_eq!(wait_exit(w.engine(), &loud.id).await.exit_code, 0, "a client that does not read holds nobody up");
    assert!(w.log(&loud).ends_with("fin\n"));
    assert_eq!(w.log(&loud).matches('y').count(), 4_000_000, "the log is whole");
    drop(idle);
    w.engine().remove_sandbox(&sandbox.id).await.unwrap();
}

pub async fn attach_to_a_terminal(w: Arc<World>) {
    let sandbox = w.sandbox().await;
    let mut spec = w.shell(&sandbox, "tty; stty size; exec sh");
    (spec.tty, spec.stdin) = (true, true);
    w.engine().create_container(spec.clone()).await.unwrap();
    let mut session = w.engine().attach(&spec.id).await.unwrap();
    session.resize.as_ref().unwrap().send((80, 25)).await.unwrap();
    // The size is on its way to the shim; give it to the terminal before the program looks.
    tokio::task::yield_now().await;
    w.engine().start_container(&spec.id).await.unwrap();
    let (mut stdin, mut stdout) = (session.stdin.take().unwrap(), session.stdout.take().unwrap());
    expect(&mut stdout, "/dev/pts/").await;
    stdin.write_all(b"echo $((6*7)); stty size; test -c /dev/console && echo con''sole\n").await.unwrap();
    let seen = expect(&mut stdout, "console\r\n").await;
    assert!(seen.contains("42\r\n"), "{seen}");
    drop((stdin, stdout, session));
    let mut again = w.engine().attach(&spec.id).await.unwrap();
    again.stdin.as_mut().unwrap().write_all(b"exit 6\n").await.unwrap();
    assert_eq!(again.exit.await.unwrap(), 6);
    w.engine().remove_sandbox(&sandbox.id).await.unwrap();
}
