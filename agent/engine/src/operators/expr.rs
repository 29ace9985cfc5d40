//! The expression language of alert conditions.

/// A parsed expression.
#[derive(Clone, Debug, PartialEq)]
pub struct Expr {}
