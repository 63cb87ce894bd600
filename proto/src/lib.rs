//! The internal API between roles: code generated from `dunlin/v1`, and conversions to the model.
//! Wire → model validates (`TryFrom`), model → wire cannot fail (`From`).

mod codec;
pub mod command;
pub mod identity;
pub mod status;

/// Generated from `dunlin/v1/*.proto`.
#[expect(clippy::allow_attributes, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("dunlin.v1");
}
