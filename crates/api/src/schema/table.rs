//! How a schema is held in memory: interned names and index tables, about a tenth of the parsed OpenAPI document.

use std::collections::HashMap;

/// Index of an interned name.
pub(super) type NameId = u32;
/// Index of a type.
pub(super) type TypeId = u32;
/// "No name": absent merge key, absent default.
pub(super) const NO_NAME: NameId = NameId::MAX;

/// A scalar type, as far as decoding and merging tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scalar {
    /// JSON string.
    String,
    /// Integer that fits 32 bits.
    Int32,
    /// Integer that fits 64 bits.
    Int64,
    /// Any JSON number.
    Number,
    /// JSON boolean.
    Boolean,
    /// Base64 in a string.
    Bytes,
    /// RFC 3339 time in a string.
    Time,
    /// `resource.Quantity`: a string or a number.
    Quantity,
    /// `intstr.IntOrString`.
    IntOrString,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Type {
    Scalar(Scalar),
    /// Anything; what it is follows from the value (`x-kubernetes-preserve-unknown-fields`, `RawExtension`).
    Any,
    Struct {
        index: u32,
        atomic: bool,
    },
    Map {
        value: TypeId,
        atomic: bool,
    },
    List {
        item: TypeId,
        kind: ListKind,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum ListKind {
    Atomic,
    Set,
    /// Index into `Schema::keys`.
    Map(u32),
}

#[derive(Debug, Clone, Copy)]
pub(super) struct StructDef {
    pub name: NameId,
    pub first: u32,
    pub count: u32,
    /// Unknown fields are kept.
    pub open: bool,
}

/// How a strategic merge patch treats a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PatchStrategy {
    /// Lists: merge by key or value instead of replacing.
    pub merge: bool,
    /// Objects: replace instead of merging.
    pub replace: bool,
    /// `$retainKeys` may occur (unions).
    pub retain_keys: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct FieldDef {
    pub name: NameId,
    pub ty: TypeId,
    pub required: bool,
    pub strategy: PatchStrategy,
    pub merge_key: NameId,
    pub default: NameId,
}

#[derive(Debug)]
pub(super) struct KindDef {
    pub group: NameId,
    pub version: NameId,
    pub kind: NameId,
    pub ty: TypeId,
}

/// A set of types: those of Kubernetes, or those of one custom resource version. Read through [`super::TypeRef`].
#[derive(Debug, Default)]
pub struct Schema {
    arena: String,
    spans: Vec<(u32, u32)>,
    pub(super) types: Vec<Type>,
    pub(super) structs: Vec<StructDef>,
    pub(super) fields: Vec<FieldDef>,
    pub(super) keys: Vec<Vec<NameId>>,
    pub(super) kinds: Vec<KindDef>,
    /// `status` is a field like any other.
    pub(super) plain_status: bool,
}

impl Schema {
    pub(super) fn name(&self, id: NameId) -> &str {
        let (start, end) = self.spans[id as usize];
        &self.arena[start as usize..end as usize]
    }

    /// Bytes held, without allocator overhead: kept small on purpose, and tested.
    pub fn memory_bytes(&self) -> usize {
        fn of<T>(v: &Vec<T>) -> usize {
            v.capacity() * size_of::<T>()
        }
        let keys: usize = self.keys.iter().map(of).sum();
        self.arena.capacity()
            + of(&self.spans)
            + of(&self.types)
            + of(&self.structs)
            + of(&self.fields)
            + of(&self.keys)
            + keys
            + of(&self.kinds)
    }

    /// Number of struct types.
    pub fn struct_count(&self) -> usize {
        self.structs.len()
    }
}

/// Fills a [`Schema`], sharing equal names and equal types.
#[derive(Debug, Default)]
pub(super) struct Builder {
    pub(super) schema: Schema,
    names: HashMap<String, NameId>,
    types: HashMap<Type, TypeId>,
    keys: HashMap<Vec<NameId>, u32>,
    structs: HashMap<String, u32>,
}

impl Builder {
    pub(super) fn intern(&mut self, name: &str) -> NameId {
        if let Some(id) = self.names.get(name) {
            return *id;
        }
        let id = self.schema.spans.len() as NameId;
        let start = self.schema.arena.len() as u32;
        self.schema.arena.push_str(name);
        self.schema.spans.push((start, self.schema.arena.len() as u32));
        self.names.insert(name.to_owned(), id);
        id
    }

    pub(super) fn add_type(&mut self, ty: Type) -> TypeId {
        if let Some(id) = self.types.get(&ty) {
            return *id;
        }
        let id = self.schema.types.len() as TypeId;
        self.schema.types.push(ty);
        self.types.insert(ty, id);
        id
    }

    pub(super) fn list_keys(&mut self, keys: &[&str]) -> ListKind {
        let ids: Vec<NameId> = keys.iter().map(|k| self.intern(k)).collect();
        let index = match self.keys.get(&ids) {
            Some(index) => *index,
            None => {
                let index = self.schema.keys.len() as u32;
                self.schema.keys.push(ids.clone());
                self.keys.insert(ids, index);
                index
            }
        };
        ListKind::Map(index)
    }

    /// The index of the struct called `name`, which may be defined later.
    pub(super) fn struct_index(&mut self, name: &str) -> u32 {
        if let Some(index) = self.structs.get(name) {
            return *index;
        }
        let index = self.schema.structs.len() as u32;
        let id = self.intern(name);
        self.schema.structs.push(StructDef { name: id, first: 0, count: 0, open: false });
        self.structs.insert(name.to_owned(), index);
        index
    }

    /// Defines the struct at `index`; its fields end up sorted by name for look-up by bisection.
    pub(super) fn define(&mut self, index: u32, mut fields: Vec<FieldDef>, open: bool) {
        fields.sort_by(|a, b| self.schema.name(a.name).cmp(self.schema.name(b.name)));
        let def = &mut self.schema.structs[index as usize];
        def.first = self.schema.fields.len() as u32;
        def.count = fields.len() as u32;
        def.open = open;
        self.schema.fields.extend(fields);
    }

    pub(super) fn add_kind(&mut self, group: &str, version: &str, kind: &str, ty: TypeId) {
        let def = KindDef { group: self.intern(group), version: self.intern(version), kind: self.intern(kind), ty };
        self.schema.kinds.push(def);
    }

    pub(super) fn finish(mut self) -> Schema {
        let schema = &mut self.schema;
        schema.arena.shrink_to_fit();
        schema.spans.shrink_to_fit();
        schema.types.shrink_to_fit();
        schema.structs.shrink_to_fit();
        schema.fields.shrink_to_fit();
        schema.kinds.shrink_to_fit();
        self.schema
    }
}
