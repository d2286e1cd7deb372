//! A custom resource's structural schema as a [`Schema`].

use serde_json::Value;

use super::TypeRef;
use super::table::{Builder, FieldDef, ListKind, NO_NAME, PatchStrategy, Scalar, Schema, Type, TypeId};
use super::{ListType, Shape, kubernetes};

/// Depth beyond which a structural schema is treated as "anything": deeper ones cannot be stored anyway.
const MAX_DEPTH: usize = 64;

/// The names under which a custom resource version's schema is found.
#[derive(Debug, Clone, Copy)]
pub struct StructuralOptions<'a> {
    /// API group.
    pub group: &'a str,
    /// API version.
    pub version: &'a str,
    /// Kind.
    pub kind: &'a str,
    /// Whether the version has the status subresource.
    pub status_subresource: bool,
}

impl Schema {
    /// Converts `openAPIV3Schema` of a custom resource version. `apiVersion`, `kind` and `metadata` are typed as in every
    /// object, whatever the schema says of them.
    pub fn from_structural(root: &Value, options: StructuralOptions<'_>) -> Schema {
        let mut convert = Convert { builder: Builder::default(), unnamed: 0, meta: None };
        let meta = kubernetes().kind("", "v1", "ConfigMap").and_then(|t| t.field("metadata")).map(|f| f.ty);
        convert.meta = meta.map(|ty| convert.copy(ty));
        let name = format!("{}.{}", options.version, options.kind);
        let ty = convert.object(root, Some(&name), 0);
        convert.builder.add_type(Type::Any);
        convert.builder.add_kind(options.group, options.version, options.kind, ty);
        convert.builder.schema.plain_status = !options.status_subresource;
        convert.builder.finish()
    }
}

struct Convert {
    builder: Builder,
    unnamed: u32,
    /// The type of `metadata`, of the resource and of what is embedded in it.
    meta: Option<TypeId>,
}

fn flag(schema: &Value, name: &str) -> bool {
    schema[name].as_bool().unwrap_or(false)
}

impl Convert {
    fn convert(&mut self, schema: &Value, depth: usize) -> TypeId {
        if depth > MAX_DEPTH {
            return self.builder.add_type(Type::Any);
        }
        if flag(schema, "x-kubernetes-int-or-string") {
            return self.builder.add_type(Type::Scalar(Scalar::IntOrString));
        }
        let scalar = match schema["type"].as_str() {
            Some("object") => return self.object(schema, None, depth),
            Some("array") => return self.list(schema, depth),
            Some("string") => Scalar::String,
            Some("integer") if schema["format"] == "int32" => Scalar::Int32,
            Some("integer") => Scalar::Int64,
            Some("number") => Scalar::Number,
            Some("boolean") => Scalar::Boolean,
            _ => return self.builder.add_type(Type::Any),
        };
        self.builder.add_type(Type::Scalar(scalar))
    }

    fn list(&mut self, schema: &Value, depth: usize) -> TypeId {
        let item = self.convert(&schema["items"], depth + 1);
        let kind = match schema["x-kubernetes-list-type"].as_str() {
            Some("set") => ListKind::Set,
            Some("map") => {
                let keys = schema["x-kubernetes-list-map-keys"].as_array();
                let keys: Vec<&str> = keys.into_iter().flatten().filter_map(Value::as_str).collect();
                if keys.is_empty() { ListKind::Atomic } else { self.builder.list_keys(&keys) }
            }
            _ => ListKind::Atomic,
        };
        self.builder.add_type(Type::List { item, kind })
    }

    /// An object; `root` is its name when it is the resource itself.
    fn object(&mut self, schema: &Value, root: Option<&str>, depth: usize) -> TypeId {
        let atomic = schema["x-kubernetes-map-type"] == "atomic";
        let open = flag(schema, "x-kubernetes-preserve-unknown-fields");
        let embedded = flag(schema, "x-kubernetes-embedded-resource");
        let properties = schema["properties"].as_object();
        if root.is_none() && !embedded && properties.is_none_or(serde_json::Map::is_empty) {
            if let Some(value) = schema.get("additionalProperties").filter(|v| v.is_object()) {
                let value = self.convert(value, depth + 1);
                return self.builder.add_type(Type::Map { value, atomic });
            }
            if flag(schema, "additionalProperties") {
                let value = self.builder.add_type(Type::Any);
                return self.builder.add_type(Type::Map { value, atomic });
            }
            if open && !atomic {
                return self.builder.add_type(Type::Any);
            }
        }
        let mut fields = Vec::new();
        if root.is_some() || embedded {
            let string = self.builder.add_type(Type::Scalar(Scalar::String));
            let meta = self.meta.unwrap_or(string);
            for (name, ty) in [("apiVersion", string), ("kind", string), ("metadata", meta)] {
                fields.push(self.field(name, ty, None));
            }
        }
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for (name, property) in properties.into_iter().flatten() {
            if (root.is_some() || embedded) && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
                continue;
            }
            let ty = self.convert(property, depth + 1);
            let mut field = self.field(name, ty, property["default"].as_str());
            field.required = required.contains(&name.as_str());
            fields.push(field);
        }
        if open {
            self.builder.add_type(Type::Any);
        }
        let index = match root {
            Some(name) => self.builder.struct_index(name),
            None => self.fresh_struct(),
        };
        self.builder.define(index, fields, open);
        self.builder.add_type(Type::Struct { index, atomic })
    }

    fn fresh_struct(&mut self) -> u32 {
        self.unnamed += 1;
        let name = format!("inline.{}", self.unnamed);
        self.builder.struct_index(&name)
    }

    fn field(&mut self, name: &str, ty: TypeId, default: Option<&str>) -> FieldDef {
        FieldDef {
            name: self.builder.intern(name),
            ty,
            required: false,
            strategy: PatchStrategy::default(),
            merge_key: NO_NAME,
            default: default.map_or(NO_NAME, |d| self.builder.intern(d)),
        }
    }

    /// Copies a type of the Kubernetes schema. Only used for `metadata`, whose types do not recurse.
    fn copy(&mut self, ty: TypeRef<'_>) -> TypeId {
        let copied = match ty.shape() {
            Shape::Scalar(scalar) => Type::Scalar(scalar),
            Shape::Any => Type::Any,
            Shape::Map { value, atomic } => Type::Map { value: self.copy(value), atomic },
            Shape::List { item, list } => {
                let kind = match list {
                    ListType::Atomic => ListKind::Atomic,
                    ListType::Set => ListKind::Set,
                    ListType::Map(keys) => self.builder.list_keys(&keys.iter().collect::<Vec<_>>()),
                };
                Type::List { item: self.copy(item), kind }
            }
            Shape::Struct { atomic, open } => {
                let mut fields = Vec::new();
                for field in ty.fields() {
                    let id = self.copy(field.ty);
                    let mut def = self.field(field.name, id, field.default);
                    def.strategy = field.strategy;
                    def.required = field.required;
                    def.merge_key = field.merge_key.map_or(NO_NAME, |k| self.builder.intern(k));
                    fields.push(def);
                }
                let index = self.builder.struct_index(ty.name().unwrap_or("meta.v1.ObjectMeta"));
                self.builder.define(index, fields, open);
                Type::Struct { index, atomic }
            }
        };
        self.builder.add_type(copied)
    }
}
