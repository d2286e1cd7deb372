//! Who a container runs as: the pod's choice, or the image's `user[:group]` looked up in the image's own `/etc/passwd`
//! and `/etc/group`.

use std::collections::BTreeSet;
use std::path::Path;

use crate::in_root;
use crate::runtime::{RuntimeError, Security};

/// Identity of a container's process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Further groups, the primary one among them.
    pub groups: Vec<u32>,
    /// Home folder.
    pub home: String,
}

impl User {
    /// Checks that every id is one of the first `range`, which are those that the pod's user namespace has.
    ///
    /// # Errors
    /// [`RuntimeError::Invalid`] names the one that is not.
    pub fn within(&self, range: u32) -> Result<(), RuntimeError> {
        match [self.uid, self.gid].into_iter().chain(self.groups.iter().copied()).find(|id| *id >= range) {
            None => Ok(()),
            Some(id) => Err(RuntimeError::Invalid(format!(
                "id {id} is not in the pod's user namespace, which has those below {range}"
            ))),
        }
    }
}

struct Passwd<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn passwd(text: &str) -> impl Iterator<Item = Passwd<'_>> {
    text.lines().filter_map(|line| {
        let f: Vec<&str> = line.trim().split(':').collect();
        let (name, uid, gid) = (*f.first()?, f.get(2)?.parse().ok()?, f.get(3)?.parse().ok()?);
        Some(Passwd { name, uid, gid, home: f.get(5).copied().unwrap_or("/") })
    })
}

fn groups(text: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    text.lines().filter_map(|line| {
        let f: Vec<&str> = line.trim().split(':').collect();
        Some((*f.first()?, f.get(2)?.parse().ok()?, f.get(3).copied().unwrap_or("")))
    })
}

/// Resolves the identity of a container on the file system at `rootfs`; `image_user` is the image's `User`.
///
/// # Errors
/// [`RuntimeError::Invalid`] for a name that the image does not know, and for root where the pod forbids it.
pub fn resolve(rootfs: &Path, image_user: &str, security: &Security) -> Result<User, RuntimeError> {
    let read = |path: &str| in_root::read_text(rootfs, Path::new(path)).ok().flatten().unwrap_or_default();
    from_texts(&read("/etc/passwd"), &read("/etc/group"), image_user, security)
}

fn from_texts(
    passwd_text: &str,
    group_text: &str,
    image_user: &str,
    security: &Security,
) -> Result<User, RuntimeError> {
    let (user_part, group_part) = image_user.split_once(':').map_or((image_user, None), |(u, g)| (u, Some(g)));
    let user_part = if user_part.is_empty() { "0" } else { user_part };
    let group_part = group_part.filter(|g| !g.is_empty());
    if security.run_as_non_root && security.run_as_user.is_none() && user_part.parse::<u32>().is_err() {
        // A name can be mapped to 0 by the image itself, so it proves nothing.
        return Err(RuntimeError::Invalid(format!(
            "container has runAsNonRoot and image has non-numeric user ({user_part}), cannot verify user is non-root"
        )));
    }
    let entry = match security.run_as_user {
        Some(uid) => passwd(passwd_text).find(|p| p.uid == uid).ok_or(uid),
        None => match user_part.parse::<u32>() {
            Ok(uid) => passwd(passwd_text).find(|p| p.uid == uid).ok_or(uid),
            Err(_) => Ok(passwd(passwd_text).find(|p| p.name == user_part).ok_or_else(|| {
                RuntimeError::Invalid(format!("unable to find user {user_part}: no matching entries in passwd file"))
            })?),
        },
    };
    let (uid, default_gid, name, home) = match entry {
        Ok(p) => (p.uid, p.gid, Some(p.name), p.home.to_owned()),
        // A user that the image does not know is in group 0, as with every other runtime.
        Err(uid) => (uid, 0, None, "/".to_owned()),
    };
    if security.run_as_non_root && uid == 0 {
        let chosen = "container's runAsUser breaks non-root policy";
        let inherited = "container has runAsNonRoot and image will run as root";
        let message = if security.run_as_user.is_some() { chosen } else { inherited };
        return Err(RuntimeError::Invalid(message.to_owned()));
    }
    let image_gid = match (security.run_as_user, group_part) {
        // The image's group belongs to the image's user.
        (Some(_), _) | (None, None) => None,
        (None, Some(g)) => Some(match g.parse::<u32>() {
            Ok(gid) => gid,
            Err(_) => groups(group_text).find(|(n, ..)| *n == g).map(|(_, gid, _)| gid).ok_or_else(|| {
                RuntimeError::Invalid(format!("unable to find group {g}: no matching entries in group file"))
            })?,
        }),
    };
    let gid = security.run_as_group.or(image_gid).unwrap_or(default_gid);
    let mut all: BTreeSet<u32> = security.supplemental_groups.iter().copied().collect();
    // Without the primary group in the list, group permissions that deny could be dodged (CVE-2022-2995).
    all.insert(gid);
    if let Some(name) = name.filter(|_| !security.strict_groups) {
        all.extend(groups(group_text).filter(|(_, _, m)| m.split(',').any(|m| m == name)).map(|(_, gid, _)| gid));
    }
    Ok(User { uid, gid, groups: all.into_iter().collect(), home })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102:web:/srv:/sbin/nologin\n";
    const GROUP: &str = "root:x:0:\nweb:x:102:\nlogs:x:200:web,other\nother:x:201:other\n";

    fn of(image_user: &str, security: &Security) -> Result<(u32, u32, Vec<u32>, String), String> {
        let user = from_texts(PASSWD, GROUP, image_user, security).map_err(|e| e.to_string())?;
        Ok((user.uid, user.gid, user.groups, user.home))
    }

    #[test]
    fn names_and_numbers() {
        let s = Security::default();
        assert_eq!(of("", &s).unwrap(), (0, 0, vec![0], "/root".into()));
        assert_eq!(of("web", &s).unwrap(), (101, 102, vec![102, 200], "/srv".into()));
        assert_eq!(of("101", &s).unwrap().1, 102);
        assert_eq!(of("web:logs", &s).unwrap().1, 200);
        assert_eq!(of("5000:6000", &s).unwrap(), (5000, 6000, vec![6000], "/".into()));
        assert_eq!(of("5000", &s).unwrap().1, 0);
        assert!(of("nobody", &s).unwrap_err().contains("unable to find user nobody"));
        assert!(of("web:nope", &s).unwrap_err().contains("unable to find group nope"));
    }

    #[test]
    fn ids_that_a_user_namespace_lacks_are_named() {
        let user = |uid, groups| User { uid, gid: 0, groups, home: "/".to_owned() };
        assert!(user(65_535, vec![0]).within(65_536).is_ok());
        assert!(user(65_536, vec![0]).within(65_536).unwrap_err().to_string().contains("65536"));
        assert!(user(1, vec![1, 70_000]).within(65_536).unwrap_err().to_string().contains("70000"));
    }

    #[test]
    fn the_pod_overrules_the_image() {
        let s = Security { run_as_user: Some(101), supplemental_groups: vec![7], ..Security::default() };
        assert_eq!(of("root:root", &s).unwrap(), (101, 102, vec![7, 102, 200], "/srv".into()));
        let s = Security { run_as_group: Some(9), ..s };
        assert_eq!(of("", &s).unwrap().1, 9);
    }

    #[test]
    fn root_is_refused_where_the_pod_forbids_it() {
        let s = Security { run_as_non_root: true, ..Security::default() };
        assert_eq!(of("", &s).unwrap_err(), "container has runAsNonRoot and image will run as root");
        assert_eq!(of("101", &s).unwrap().0, 101);
        assert!(of("web", &s).unwrap_err().contains("non-numeric user (web)"));
        let s = Security { run_as_user: Some(0), ..s };
        assert!(of("101", &s).is_err());
    }
}
