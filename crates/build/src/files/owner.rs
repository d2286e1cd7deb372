//! `--chown` and `USER` looked up in an image's own `/etc/passwd` and `/etc/group`.

use std::path::Path;

use super::root::Root;

/// User and group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// Reads `user[:group]`; a user alone is its own group's number too, as Docker has it.
///
/// # Errors
/// A name that the image does not know.
pub fn owner_of(root: &Root, text: &str) -> Result<Owner, String> {
    let (user, group) = text.split_once(':').map_or((text, None), |(u, g)| (u, Some(g)));
    let find = |file: &str, name: &str| {
        let known = root.text(Path::new(file)).ok().flatten().unwrap_or_default();
        known.lines().find_map(|line| {
            let mut fields = line.trim().split(':');
            (fields.next() == Some(name)).then(|| fields.nth(1)?.parse::<u32>().ok()).flatten()
        })
    };
    let id = |file: &str, kind: &str, name: &str| match name.parse::<u32>() {
        Ok(id) => Ok(id),
        Err(_) => find(file, name).ok_or_else(|| format!("invalid {kind} index: {name}: not in {file} of the image")),
    };
    let uid = if user.is_empty() { 0 } else { id("/etc/passwd", "user", user)? };
    let gid = match group {
        Some(group) if !group.is_empty() => id("/etc/group", "group", group)?,
        _ => uid,
    };
    Ok(Owner { uid, gid })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_owners() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/passwd"), "root:x:0:0::/:/bin/sh\napp:x:1000:1001::/:/bin/sh\n").unwrap();
        std::fs::write(dir.path().join("etc/group"), "root:x:0:\nextra:x:2000:app\n").unwrap();
        let root = Root::open(dir.path()).unwrap();
        for (text, uid, gid) in
            [("app", 1000, 1000), ("app:extra", 1000, 2000), ("5", 5, 5), ("5:6", 5, 6), (":extra", 0, 2000)]
        {
            assert_eq!(owner_of(&root, text), Ok(Owner { uid, gid }), "{text}");
        }
        assert!(owner_of(&root, "nobody").is_err());
        assert!(owner_of(&root, "app:none").is_err());
    }
}
