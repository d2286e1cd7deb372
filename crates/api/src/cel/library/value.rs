//! Values of Kubernetes' own types, as the evaluator wants them.

/// Makes a type a value of expressions: equal by `==`, and named in them as `name`.
macro_rules! value {
    ($type:ident, $name:literal) => {
        impl $type {
            /// Its type in expressions.
            pub const TYPE: cel::common::types::Type = cel::common::types::Type::new_unspecified_type($name);
        }

        impl cel::common::value::Val for $type {
            fn get_type(&self) -> &cel::common::types::Type {
                <Self as cel::common::value::Val>::cel_type()
            }

            fn cel_type() -> &'static cel::common::types::Type {
                static TYPE: cel::common::types::Type = $type::TYPE;
                &TYPE
            }

            fn equals(&self, other: &dyn cel::common::value::Val) -> bool {
                other.downcast_ref::<$type>().is_some_and(|other| self == other)
            }

            fn clone_as_boxed<'v>(&self) -> Box<dyn cel::common::value::Val + 'v>
            where
                Self: 'v,
            {
                Box::new(self.clone())
            }

            fn as_any(&self) -> Option<&dyn std::any::Any> {
                Some(self)
            }
        }

        impl cel::common::value::StaticVal for $type {}
    };
}

pub(super) use value;
