//! Data classes as types: what a message of this API can be made of.

use ids::{HostId, Identity, InstanceId, Slot, VolumeId};
use operations::{DataClass, Operation as Api, Resource};
use serde::{Serialize, de::DeserializeOwned};
use utoipa::openapi::{
    ArrayBuilder, Object, OneOfBuilder, RefOr, Schema, Type,
    extensions::Extensions,
    schema::{AdditionalProperties, Components, ObjectBuilder, SchemaType},
};

pub(crate) fn mark(class: DataClass) -> Option<Extensions> {
    Some(Extensions::from_iter([("x-data-class", class.name())]))
}

/// A type that a message may contain. Only this crate implements it, for types that state their [`DataClass`]: what
/// could hold anything, and so customer content, is none.
///
/// ```
/// fn goes_into_a_message<T: host_api::Datum>() {}
/// goes_into_a_message::<host_api::Sentence>();
/// goes_into_a_message::<Vec<host_api::LogRecord>>();
/// ```
///
/// ```compile_fail,E0277
/// fn goes_into_a_message<T: host_api::Datum>() {}
/// goes_into_a_message::<String>();
/// ```
///
/// ```compile_fail,E0277
/// fn goes_into_a_message<T: host_api::Datum>() {}
/// goes_into_a_message::<Vec<u8>>();
/// ```
///
/// ```compile_fail,E0603
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct GuestMemory([u8; 4096]);
/// impl host_api::datum::sealed::Sealed for GuestMemory {}
/// ```
pub trait Datum: Serialize + DeserializeOwned + sealed::Sealed {
    /// Whether a message may leave it out.
    const OPTIONAL: bool = false;

    /// Its schema; a message also enters itself among the document's components.
    #[doc(hidden)]
    fn schema(components: &mut Components) -> RefOr<Schema>;
}

pub(crate) mod sealed {
    /// Keeps other crates from widening what a message can hold.
    pub trait Sealed {}
}

fn leaf(class: DataClass, kind: Type) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::new(kind)).extensions(mark(class))
}

/// A bounded string that matches `pattern`.
pub(crate) fn string(class: DataClass, lengths: (usize, usize), pattern: &str) -> RefOr<Schema> {
    leaf(class, Type::String)
        .min_length(Some(lengths.0))
        .max_length(Some(lengths.1))
        .pattern(Some(pattern))
        .into()
}

/// One of a few words.
pub(crate) fn choice(class: DataClass, words: &[&str]) -> RefOr<Schema> {
    leaf(class, Type::String).enum_values(Some(words.iter().copied())).into()
}

macro_rules! id_datum {
    ($($id:ident),*) => {$(
        impl sealed::Sealed for $id {}
        impl Datum for $id {
            fn schema(_: &mut Components) -> RefOr<Schema> {
                let length = $id::PREFIX.len() + 18;
                string(DataClass::Identifier, (length, length), &format!("^{}-[0-9a-f]{{17}}$", $id::PREFIX))
            }
        }
    )*};
}
id_datum!(HostId, VolumeId, InstanceId);

impl sealed::Sealed for Identity {}
impl Datum for Identity {
    fn schema(_: &mut Components) -> RefOr<Schema> {
        string(DataClass::Audit, (1, 80), "^azote:(host|service|tenant|importer|operator)/[a-z][a-z0-9-]*$")
    }
}

impl sealed::Sealed for Api {}
impl Datum for Api {
    fn schema(_: &mut Components) -> RefOr<Schema> {
        let names: Vec<_> = Self::ALL.iter().map(|api| api.as_str()).collect();
        choice(DataClass::Identifier, &names)
    }
}

impl sealed::Sealed for Resource {}
impl Datum for Resource {
    fn schema(_: &mut Components) -> RefOr<Schema> {
        string(DataClass::Identifier, (1, 48), "^(host/h|volume/vol|instance/i)-[0-9a-f]{17}$")
    }
}

impl sealed::Sealed for Slot {}
impl Datum for Slot {
    fn schema(_: &mut Components) -> RefOr<Schema> {
        leaf(DataClass::Identifier, Type::Integer).minimum(Some(1)).maximum(Some(ids::SLOTS)).into()
    }
}

impl sealed::Sealed for bool {}
impl Datum for bool {
    fn schema(_: &mut Components) -> RefOr<Schema> {
        leaf(DataClass::State, Type::Boolean).into()
    }
}

impl sealed::Sealed for u64 {}
impl Datum for u64 {
    fn schema(_: &mut Components) -> RefOr<Schema> {
        leaf(DataClass::State, Type::Integer).minimum(Some(0)).maximum(Some(usize::MAX)).into()
    }
}

impl sealed::Sealed for i32 {}
impl Datum for i32 {
    fn schema(_: &mut Components) -> RefOr<Schema> {
        let (least, most) = (i32::MIN as isize, i32::MAX as isize);
        leaf(DataClass::State, Type::Integer).minimum(Some(least)).maximum(Some(most)).into()
    }
}

impl<T: sealed::Sealed> sealed::Sealed for Option<T> {}
impl<T: Datum> Datum for Option<T> {
    const OPTIONAL: bool = true;

    fn schema(components: &mut Components) -> RefOr<Schema> {
        OneOfBuilder::new()
            .item(Object::with_type(SchemaType::new(Type::Null)))
            .item(T::schema(components))
            .into()
    }
}

/// What a message may contain a list of.
pub(crate) trait Listed: Datum {
    /// Longest list.
    const MOST: usize;
}

impl Listed for Slot {
    const MOST: usize = ids::SLOTS as usize;
}

impl Listed for Resource {
    const MOST: usize = token::MAX_RESOURCES;
}

impl<T: sealed::Sealed> sealed::Sealed for Vec<T> {}
impl<T: Listed> Datum for Vec<T> {
    fn schema(components: &mut Components) -> RefOr<Schema> {
        let list = ArrayBuilder::new().items(T::schema(components)).max_items(Some(T::MOST));
        Schema::Array(list.build()).into()
    }
}

/// A field of a message, which may be `left_out` though its type always has a value.
pub(crate) fn field<T: Datum>(
    object: ObjectBuilder,
    components: &mut Components,
    name: &str,
    description: &str,
    left_out: bool,
) -> ObjectBuilder {
    let schema = match T::schema(components) {
        RefOr::T(Schema::Object(leaf)) => ObjectBuilder::from(leaf).description(Some(description)).into(),
        other => other,
    };
    let object = object.property(name, schema);
    if T::OPTIONAL || left_out { object } else { object.required(name) }
}

/// A message has the fields that were declared and no others.
pub(crate) fn closed(object: ObjectBuilder) -> RefOr<Schema> {
    object.additional_properties(Some(AdditionalProperties::<Schema>::FreeForm(false))).into()
}

/// Declares messages: structures made of [`Datum`] fields, and nothing else.
macro_rules! messages {
    ($(
        $(#[doc = $doc:literal])*
        $name:ident { $(
            $(#[doc = $field_doc:literal])* $(#[serde($($attribute:tt)*)])? $field:ident : $kind:ty
        ),* $(,)? }
    )*) => {$(
        $(#[doc = $doc])*
        #[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name { $(
            $(#[doc = $field_doc])*
            $(#[serde($($attribute)*)])?
            pub $field: $kind
        ),* }

        impl crate::datum::sealed::Sealed for $name {}
        impl crate::datum::Datum for $name {
            fn schema(
                components: &mut utoipa::openapi::schema::Components,
            ) -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                let name = stringify!($name);
                if !components.schemas.contains_key(name) {
                    let object = utoipa::openapi::schema::ObjectBuilder::new()
                        .description(Some(concat!($($doc),*).trim()));
                    $( let object = crate::datum::field::<$kind>(
                        object, components, stringify!($field), concat!($($field_doc),*).trim(),
                        // A field with an attribute is one that is left out when there is nothing in it.
                        !concat!("" $(, stringify!($($attribute)*))?).is_empty(),
                    ); )*
                    components.schemas.insert(name.to_owned(), crate::datum::closed(object));
                }
                utoipa::openapi::Ref::from_schema_name(name).into()
            }
        }
    )*};
}

/// Declares an enumeration of words.
macro_rules! choices {
    ($(
        $(#[doc = $doc:literal])*
        $name:ident : $class:ident { $( $(#[doc = $word_doc:literal])* $variant:ident = $word:literal ),* $(,)? }
    )*) => {$(
        $(#[doc = $doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        pub enum $name { $( $(#[doc = $word_doc])* #[serde(rename = $word)] $variant ),* }

        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// As it is written.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl crate::datum::sealed::Sealed for $name {}
        impl crate::datum::Datum for $name {
            fn schema(
                _: &mut utoipa::openapi::schema::Components,
            ) -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                crate::datum::choice(operations::DataClass::$class, &[$($word),*])
            }
        }
    )*};
}
