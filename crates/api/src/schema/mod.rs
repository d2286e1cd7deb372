//! What the types of the API look like: field names and types, and how lists and maps merge.
//!
//! The facts of the stable Kubernetes kinds are generated into `kubernetes.schema` and decoded once, on first use. A custom
//! resource's structural schema becomes another [`Schema`] ([`Schema::from_structural`]); whatever walks objects (type
//! checks, pruning, patches, server-side apply) sees only [`TypeRef`] and treats both alike.

mod check;
mod structural;
mod table;
#[cfg(test)]
mod tests;
mod text;

use std::sync::OnceLock;

pub use check::{TypeMismatch, decode_error, strict_decoding_error};
pub use structural::StructuralOptions;
use table::{FieldDef, ListKind, NO_NAME, StructDef, Type, TypeId};
pub use table::{PatchStrategy, Scalar, Schema};
pub use text::TextError;

/// A type within a schema; cheap to copy.
#[derive(Clone, Copy)]
pub struct TypeRef<'a> {
    schema: &'a Schema,
    id: TypeId,
}

/// One field of a struct type.
#[derive(Debug, Clone, Copy)]
pub struct Field<'a> {
    /// JSON name.
    pub name: &'a str,
    /// Its type.
    pub ty: TypeRef<'a>,
    /// Whether the OpenAPI document lists it as required.
    pub required: bool,
    /// Strategic merge patch strategy.
    pub strategy: PatchStrategy,
    /// Strategic merge patch key of a list of objects.
    pub merge_key: Option<&'a str>,
    /// The value an absent list-map key stands for (`protocol: TCP`).
    pub default: Option<&'a str>,
}

/// What kind of type a [`TypeRef`] is.
#[derive(Debug, Clone, Copy)]
pub enum Shape<'a> {
    /// A scalar.
    Scalar(Scalar),
    /// Anything: objects merge by key, lists are atomic.
    Any,
    /// An object with named fields.
    Struct {
        /// Owned and replaced as a whole.
        atomic: bool,
        /// Unknown fields are kept.
        open: bool,
    },
    /// An object with arbitrary keys.
    Map {
        /// Type of the values.
        value: TypeRef<'a>,
        /// Owned and replaced as a whole.
        atomic: bool,
    },
    /// A list.
    List {
        /// Type of the items.
        item: TypeRef<'a>,
        /// How items are identified.
        list: ListType<'a>,
    },
}

/// How the items of a list are identified when it is merged.
#[derive(Debug, Clone, Copy)]
pub enum ListType<'a> {
    /// The list is one value.
    Atomic,
    /// Items are scalars that identify themselves.
    Set,
    /// Items are objects identified by some of their fields.
    Map(ListKeys<'a>),
}

/// The names of the fields that identify an item, in schema order.
#[derive(Clone, Copy)]
pub struct ListKeys<'a> {
    schema: &'a Schema,
    index: u32,
}

impl<'a> ListKeys<'a> {
    /// The key fields' names.
    pub fn iter(self) -> impl ExactSizeIterator<Item = &'a str> {
        self.schema.keys[self.index as usize].iter().map(move |id| self.schema.name(*id))
    }
}

impl std::fmt::Debug for ListKeys<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl std::fmt::Debug for TypeRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TypeRef({})", self.go_name())
    }
}

/// The schema of the stable Kubernetes kinds.
pub fn kubernetes() -> &'static Schema {
    static SCHEMA: OnceLock<Schema> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        text::decode(include_str!("kubernetes.schema"))
            .expect("the schema text is part of the binary and decoded in tests")
    })
}

/// The type of a stable Kubernetes kind. `group` is empty for the core group.
pub fn for_kind(group: &str, version: &str, kind: &str) -> Option<TypeRef<'static>> {
    kubernetes().kind(group, version, kind)
}

impl Schema {
    /// Decodes schema text (see `kubernetes.schema`).
    ///
    /// # Errors
    /// Names the first line that makes no sense.
    pub fn from_text(text: &str) -> Result<Self, TextError> {
        text::decode(text)
    }

    /// The type of a kind, `None` if this schema does not have it.
    pub fn kind(&self, group: &str, version: &str, kind: &str) -> Option<TypeRef<'_>> {
        let found = self
            .kinds
            .iter()
            .find(|k| self.name(k.kind) == kind && self.name(k.group) == group && self.name(k.version) == version)?;
        Some(TypeRef { schema: self, id: found.ty })
    }

    /// All `(group, version, kind)` of this schema.
    pub fn kinds(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.kinds.iter().map(|k| (self.name(k.group), self.name(k.version), self.name(k.kind)))
    }
}

impl<'a> TypeRef<'a> {
    fn at(self, id: TypeId) -> Self {
        Self { schema: self.schema, id }
    }

    /// Whether objects of this kind have a `status` that is written through a subresource. Every Kubernetes kind with a
    /// status does; custom resources say so.
    pub fn has_status_subresource(self) -> bool {
        !self.schema.plain_status && self.field("status").is_some()
    }

    /// Whether the type is one of Kubernetes' own, not of a custom resource.
    pub fn is_kubernetes(self) -> bool {
        self.is_of(kubernetes())
    }

    /// Whether the type belongs to `schema`.
    pub(crate) fn is_of(self, schema: &Schema) -> bool {
        std::ptr::eq(self.schema, schema)
    }

    fn raw(self) -> Type {
        self.schema.types[self.id as usize]
    }

    /// What kind of type this is.
    pub fn shape(self) -> Shape<'a> {
        match self.raw() {
            Type::Scalar(scalar) => Shape::Scalar(scalar),
            Type::Any => Shape::Any,
            Type::Struct { atomic, .. } => {
                Shape::Struct { atomic, open: self.struct_def().is_some_and(|def| def.open) }
            }
            Type::Map { value, atomic } => Shape::Map { value: self.at(value), atomic },
            Type::List { item, kind } => {
                let list = match kind {
                    ListKind::Atomic => ListType::Atomic,
                    ListKind::Set => ListType::Set,
                    ListKind::Map(index) => ListType::Map(ListKeys { schema: self.schema, index }),
                };
                Shape::List { item: self.at(item), list }
            }
        }
    }

    fn struct_def(self) -> Option<StructDef> {
        match self.raw() {
            Type::Struct { index, .. } => Some(self.schema.structs[index as usize]),
            _ => None,
        }
    }

    fn defs(self) -> &'a [FieldDef] {
        match self.struct_def() {
            Some(def) => &self.schema.fields[def.first as usize..(def.first + def.count) as usize],
            None => &[],
        }
    }

    fn view(self, def: &FieldDef) -> Field<'a> {
        let name = |id| (id != NO_NAME).then(|| self.schema.name(id));
        Field {
            name: self.schema.name(def.name),
            ty: self.at(def.ty),
            required: def.required,
            strategy: def.strategy,
            merge_key: name(def.merge_key),
            default: name(def.default),
        }
    }

    /// The declared field `name` of a struct type.
    pub fn field(self, name: &str) -> Option<Field<'a>> {
        let defs = self.defs();
        let at = defs.binary_search_by(|def| self.schema.name(def.name).cmp(name)).ok()?;
        Some(self.view(&defs[at]))
    }

    /// All declared fields, by name. Empty unless this is a struct type.
    pub fn fields(self) -> impl ExactSizeIterator<Item = Field<'a>> {
        self.defs().iter().map(move |def| self.view(def))
    }

    /// The type of the value under `key`: of a declared field, of a map's values, of anything below [`Shape::Any`].
    /// `None` for an undeclared field of a closed struct, and for types that have no keys.
    pub fn child(self, key: &str) -> Option<TypeRef<'a>> {
        match self.shape() {
            Shape::Struct { open, .. } => {
                self.field(key).map(|f| f.ty).or_else(|| if open { self.any() } else { None })
            }
            Shape::Map { value, .. } => Some(value),
            Shape::Any => Some(self),
            Shape::Scalar(_) | Shape::List { .. } => None,
        }
    }

    /// The type "anything" of this schema; open structs exist only in schemas that have it.
    fn any(self) -> Option<TypeRef<'a>> {
        let id = self.schema.types.iter().position(|t| *t == Type::Any)?;
        Some(self.at(id as TypeId))
    }

    /// The item type of a list.
    pub fn item(self) -> Option<TypeRef<'a>> {
        match self.raw() {
            Type::List { item, .. } => Some(self.at(item)),
            _ => None,
        }
    }

    /// How a list's items are identified; `None` if this is no list.
    pub fn list_type(self) -> Option<ListType<'a>> {
        match self.shape() {
            Shape::List { list, .. } => Some(list),
            _ => None,
        }
    }

    /// Whether this is an object with named fields.
    pub fn is_object(self) -> bool {
        matches!(self.raw(), Type::Struct { .. })
    }

    /// Whether this is an object with arbitrary keys.
    pub fn is_map(self) -> bool {
        matches!(self.raw(), Type::Map { .. })
    }

    /// Whether this is a list.
    pub fn is_list(self) -> bool {
        matches!(self.raw(), Type::List { .. })
    }

    /// Whether values of this type are owned and replaced as a whole.
    pub fn is_atomic(self) -> bool {
        match self.raw() {
            Type::Struct { atomic, .. } | Type::Map { atomic, .. } => atomic,
            Type::List { kind, .. } => kind == ListKind::Atomic,
            Type::Scalar(_) => true,
            Type::Any => false,
        }
    }

    /// The struct's name, as `core.v1.Pod`.
    pub fn name(self) -> Option<&'a str> {
        self.struct_def().map(|def| self.schema.name(def.name))
    }

    /// The type as Kubernetes' decoder names it in messages: `[]v1.Container`, `map[string]string`, `int32`.
    pub(crate) fn go_name(self) -> String {
        match self.shape() {
            Shape::Scalar(scalar) => match scalar {
                Scalar::String => "string".into(),
                Scalar::Int32 => "int32".into(),
                Scalar::Int64 => "int64".into(),
                Scalar::Number => "float64".into(),
                Scalar::Boolean => "bool".into(),
                Scalar::Bytes => "[]uint8".into(),
                Scalar::Time => "v1.Time".into(),
                Scalar::Quantity => "resource.Quantity".into(),
                Scalar::IntOrString => "intstr.IntOrString".into(),
            },
            Shape::Any => "interface {}".into(),
            Shape::Struct { .. } => {
                let name = self.name().unwrap_or_default();
                let mut parts = name.rsplitn(3, '.');
                match (parts.next(), parts.next()) {
                    (Some(last), Some(package)) => format!("{package}.{last}"),
                    _ => name.to_owned(),
                }
            }
            Shape::Map { value, .. } => format!("map[string]{}", value.go_name()),
            Shape::List { item, .. } => format!("[]{}", item.go_name()),
        }
    }
}
