//! Modes of files as Go has them (`os.FileMode`) and as Linux has them.

const DIR: u32 = 1 << 31;
const SYMLINK: u32 = 1 << 27;
const DEVICE: u32 = 1 << 26;
const PIPE: u32 = 1 << 25;
const SOCKET: u32 = 1 << 24;
const SETUID: u32 = 1 << 23;
const SETGID: u32 = 1 << 22;
const CHAR: u32 = 1 << 21;
const STICKY: u32 = 1 << 20;
const IRREGULAR: u32 = 1 << 19;

/// What something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    Dir,
    Symlink,
    Pipe,
    /// A device or something nobody knows.
    Other,
}

/// Kind and permissions of a mode of Go.
pub fn from_go(mode: u32) -> (Kind, u32) {
    let kind = match mode & (DIR | SYMLINK | DEVICE | PIPE | SOCKET | CHAR | IRREGULAR) {
        0 => Kind::File,
        DIR => Kind::Dir,
        SYMLINK => Kind::Symlink,
        PIPE => Kind::Pipe,
        _ => Kind::Other,
    };
    let bits = [(SETUID, 0o4000), (SETGID, 0o2000), (STICKY, 0o1000)];
    let special = bits.iter().filter(|(go, _)| mode & go != 0).map(|(_, unix)| unix).sum::<u32>();
    (kind, mode & 0o777 | special)
}

/// The mode of Go for `st_mode`; `None` for what is not transferred (sockets and devices).
pub fn to_go(mode: u32) -> Option<u32> {
    let kind = match mode & 0o170_000 {
        0o100_000 => 0,
        0o040_000 => DIR,
        0o120_000 => SYMLINK,
        0o010_000 => PIPE,
        _ => return None,
    };
    let bits = [(SETUID, 0o4000), (SETGID, 0o2000), (STICKY, 0o1000)];
    let special = bits.iter().filter(|(_, unix)| mode & unix != 0).map(|(go, _)| go).sum::<u32>();
    Some(mode & 0o777 | special | kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_go_there_and_back() {
        for (unix, kind) in [
            (0o100_644, Kind::File),
            (0o104_755, Kind::File),
            (0o041_777, Kind::Dir),
            (0o120_777, Kind::Symlink),
            (0o010_600, Kind::Pipe),
        ] {
            assert_eq!(from_go(to_go(unix).unwrap()), (kind, unix & 0o7777), "{unix:o}");
        }
        assert_eq!((to_go(0o140_755), to_go(0o060_600)), (None, None));
        assert_eq!(from_go(DEVICE | CHAR | 0o600).0, Kind::Other);
    }
}
