//! The resources that are only ever created, as kinds: what admission knows a kind by.

use std::sync::OnceLock;

use super::{Columns, Hooks, KindInfo, NameRule, VIRTUAL, VirtualKind};

const NO_COLUMNS: Columns = Columns { list: &[], row: |_, _| Vec::new() };

/// The kind of a resource that accepts `create` only. It has no rules, and nothing of it is stored.
pub fn answered(of: &VirtualKind) -> Option<&'static KindInfo> {
    static KINDS: OnceLock<Vec<KindInfo>> = OnceLock::new();
    let kinds = KINDS.get_or_init(|| VIRTUAL.iter().map(info).collect());
    kinds.iter().find(|kind| kind.group == of.group && kind.version == of.version && kind.plural == of.plural)
}

fn info(of: &VirtualKind) -> KindInfo {
    KindInfo {
        group: of.group,
        version: of.version,
        kind: of.kind,
        list_kind: "",
        plural: of.plural,
        singular: of.singular,
        short_names: &[],
        categories: &[],
        namespaced: of.namespaced,
        has_status: false,
        scale: None,
        verbs: &["create"],
        subresources: &[],
        storage_group: of.group,
        storage_version: of.version,
        name_rule: NameRule::PathSegment,
        create_on_update: false,
        has_generation: false,
        status_on_create: false,
        default_orphan: false,
        ttl_s: None,
        hooks: Hooks::NONE,
        columns: NO_COLUMNS,
        custom: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_resource_that_is_only_created_has_a_kind() {
        for of in VIRTUAL {
            assert_eq!(answered(of).map(|k| (k.kind, k.namespaced)), Some((of.kind, of.namespaced)));
        }
    }
}
