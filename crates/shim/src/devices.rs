//! Which devices a container may use, on cgroup v2. There is no file to write rules to: the rules are a BPF program that
//! the kernel runs at every open and mknod of a device (bpf-helpers(7), BPF_PROG_TYPE_CGROUP_DEVICE). libcontainer
//! leaves this out in the way it is built here (its own way needs libbpf); without it a container's root could make a
//! node for the host's disk and read it. On v1 libcgroups writes the rules.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use crate::sys;

/// One BPF instruction (`struct bpf_insn`).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Insn {
    code: u8,
    /// Destination in the low four bits, source in the high.
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// Character devices that every container may use: major, minor (`None`: all). As Docker has it.
const ALLOWED: [(i32, Option<i32>); 9] = [
    (1, Some(3)), // null
    (1, Some(5)), // zero
    (1, Some(7)), // full
    (1, Some(8)), // random
    (1, Some(9)), // urandom
    (5, Some(0)), // tty
    (5, Some(1)), // console
    (5, Some(2)), // ptmx
    (136, None),  // pts/*
];

/// A block device that a container may use beside them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Block {
    major: i32,
    minor: i32,
    read_only: bool,
}

/// Block devices that the rules of a container's spec name one by one.
pub(crate) fn blocks(rules: &[LinuxDeviceCgroup]) -> Vec<Block> {
    let named = |d: &LinuxDeviceCgroup| {
        let (major, minor) = (i32::try_from(d.major()?).ok()?, i32::try_from(d.minor()?).ok()?);
        let read_only = !d.access().as_deref().unwrap_or_default().contains('w');
        (d.allow() && d.typ() == Some(LinuxDeviceType::B)).then_some(Block { major, minor, read_only })
    };
    rules.iter().filter_map(named).collect()
}

// `struct bpf_cgroup_dev_ctx`: access << 16 | type, major, minor.
const TYPE_BLOCK: i32 = 1;
const TYPE_CHAR: i32 = 2;
const ACCESS_MKNOD: i32 = 1;
const ACCESS_WRITE: i32 = 4;

// Opcodes (kernel: Documentation/bpf/standardization/instruction-set.rst).
const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xbf;
const MOVE_IMMEDIATE: u8 = 0xb7;
const AND_IMMEDIATE: u8 = 0x57;
const SHIFT_RIGHT_IMMEDIATE: u8 = 0x77;
const JUMP: u8 = 0x05;
const JUMP_IF_EQUAL: u8 = 0x15;
const JUMP_IF_NOT_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

const fn insn(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Insn {
    Insn { code, registers: to | from << 4, offset, immediate }
}

/// Making a node is harmless, using it is not: mknod is allowed for all, the rest for the list and these block devices.
fn program(blocks: &[Block]) -> Vec<Insn> {
    const ALLOW: [Insn; 2] = [insn(MOVE_IMMEDIATE, 0, 0, 0, 1), insn(EXIT, 0, 0, 0, 0)];
    const DENY: [Insn; 2] = [insn(MOVE_IMMEDIATE, 0, 0, 0, 0), insn(EXIT, 0, 0, 0, 0)];
    let mut code = vec![
        insn(LOAD_WORD, 2, 1, 0, 0),
        insn(MOVE, 3, 2, 0, 0),
        insn(AND_IMMEDIATE, 2, 0, 0, 0xffff),
        insn(SHIFT_RIGHT_IMMEDIATE, 3, 0, 0, 16),
        insn(LOAD_WORD, 4, 1, 4, 0),
        insn(LOAD_WORD, 5, 1, 8, 0),
        insn(JUMP_IF_NOT_EQUAL, 3, 0, 2, ACCESS_MKNOD),
    ];
    code.extend(ALLOW);
    for block in blocks {
        let check = if block.read_only { 3 } else { 0 };
        code.push(insn(JUMP_IF_NOT_EQUAL, 2, 0, 4 + check, TYPE_BLOCK));
        code.push(insn(JUMP_IF_NOT_EQUAL, 4, 0, 3 + check, block.major));
        code.push(insn(JUMP_IF_NOT_EQUAL, 5, 0, 2 + check, block.minor));
        if block.read_only {
            code.push(insn(MOVE, 0, 3, 0, 0));
            code.push(insn(AND_IMMEDIATE, 0, 0, 0, ACCESS_WRITE));
            code.push(insn(JUMP_IF_NOT_EQUAL, 0, 0, 2, 0));
        }
        code.extend(ALLOW);
    }
    code.extend([insn(JUMP_IF_EQUAL, 2, 0, 2, TYPE_CHAR)]);
    code.extend(DENY);
    for (major, minor) in ALLOWED {
        match minor {
            Some(minor) => {
                code.push(insn(JUMP_IF_NOT_EQUAL, 4, 0, 3, major));
                code.push(insn(JUMP_IF_NOT_EQUAL, 5, 0, 2, minor));
            }
            None => {
                code.push(insn(JUMP_IF_NOT_EQUAL, 4, 0, 3, major));
                code.push(insn(JUMP, 0, 0, 0, 0));
            }
        }
        code.extend(ALLOW);
    }
    code.extend(DENY);
    code
}

/// Limits what is in the v2 cgroup at `dir`, now and later, to the standard devices and these.
///
/// Errors when the kernel has no cgroup BPF: then the container must not start.
pub(crate) fn confine(dir: &Path, blocks: &[Block]) -> io::Result<()> {
    let program = sys::load_device_program(&program(blocks))?;
    let cgroup = File::open(dir)?;
    sys::attach_device_program(cgroup.as_fd(), program.as_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel would.
    fn allowed(kind: u32, access: u32, major: u32, minor: u32) -> bool {
        run(&[], kind, access, major, minor)
    }

    fn run(blocks: &[Block], kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let context = [access << 16 | kind, major, minor];
        let (code, mut at, mut r) = (program(blocks), 0usize, [0u64; 11]);
        loop {
            let i = code[at];
            let (to, from) = ((i.registers & 15) as usize, (i.registers >> 4) as usize);
            let value = i.immediate as u64;
            let jump = at + 1 + i.offset as usize;
            at += 1;
            match i.code {
                LOAD_WORD => r[to] = u64::from(context[i.offset as usize / 4]),
                MOVE => r[to] = r[from],
                MOVE_IMMEDIATE => r[to] = value,
                AND_IMMEDIATE => r[to] &= value,
                SHIFT_RIGHT_IMMEDIATE => r[to] >>= value,
                JUMP => at = jump,
                JUMP_IF_EQUAL if r[to] == value => at = jump,
                JUMP_IF_NOT_EQUAL if r[to] != value => at = jump,
                JUMP_IF_EQUAL | JUMP_IF_NOT_EQUAL => {}
                EXIT => return r[0] == 1,
                other => panic!("opcode {other:#x}"),
            }
        }
    }

    #[test]
    fn the_program_allows_the_standard_devices_only() {
        let (block, char) = (1, 2);
        let (mknod, read, write) = (1, 2, 4);
        for minor in [3, 5, 7, 8, 9] {
            assert!(allowed(char, read | write, 1, minor));
        }
        assert!(allowed(char, write, 136, 77) && allowed(char, read, 5, 2));
        assert!(!allowed(char, read, 1, 1), "/dev/mem");
        assert!(!allowed(char, read, 10, 200) && !allowed(char, read, 4, 1));
        for (major, minor) in [(8, 0), (254, 0), (1, 3), (136, 0)] {
            assert!(!allowed(block, read, major, minor));
            assert!(allowed(block, mknod, major, minor));
            assert!(!allowed(block, mknod | read, major, minor));
        }
    }

    #[test]
    fn a_block_device_that_is_named_may_be_used_and_no_other() {
        let rules: Vec<LinuxDeviceCgroup> = serde_json::from_value(serde_json::json!([
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "b", "major": 7, "minor": 3, "access": "rwm"},
            {"allow": true, "type": "b", "major": 8, "minor": 0, "access": "rm"},
            {"allow": true, "type": "c", "major": 9, "minor": 9, "access": "rwm"},
        ]))
        .unwrap();
        let blocks = blocks(&rules);
        assert_eq!(blocks.len(), 2);
        let (block, char, read, write) = (1, 2, 2, 4);
        let run = |kind, access, major, minor| run(&blocks, kind, access, major, minor);
        assert!(run(block, read | write, 7, 3) && run(block, read, 8, 0));
        assert!(!run(block, write, 8, 0) && !run(block, read | write, 8, 0), "it may only be read");
        assert!(!run(block, read, 7, 4) && !run(block, read, 9, 3) && !run(char, read, 7, 3));
        assert!(run(char, read | write, 1, 3) && !run(char, read, 1, 1), "the others are as ever");
    }

    /// Works on hybrid hosts too: the filter belongs to the cgroup, not to a controller.
    #[test]
    fn the_kernel_takes_the_program_and_obeys_it() {
        use crate::cgroup::{Version, hierarchies};
        let tree = hierarchies().iter().find(|h| h.version == Version::V2);
        let (true, Some(tree)) = (nix::unistd::geteuid().is_root(), tree) else {
            println!("skipped: needs root and a v2 tree");
            return;
        };
        let dir = tree.root.join(format!("windlass-devices-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        confine(&dir, &[Block { major: 7, minor: 0, read_only: true }]).unwrap();
        let script = "echo $$ > \"$0/cgroup.procs\"; cat /dev/null && head -c 1 /dev/urandom >/dev/null && \
                      ! head -c 1 /dev/kmsg 2>/dev/null >/dev/null";
        let status = std::process::Command::new("sh").arg("-c").arg(script).arg(&dir).status().unwrap();
        std::fs::remove_dir(&dir).unwrap();
        assert!(status.success());
    }
}
