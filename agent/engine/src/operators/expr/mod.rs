//! The expression language of alert conditions: parsed once, checked as far as types are known, evaluated without allocating.
//!
//! ```text
//! temperature > 80 and tag("site") == "north"
//! abs(`supply-voltage` - 24) >= 0.5 or not door_closed
//! ```
//!
//! A field name is letters, digits, `_` and `.`, not starting with a digit; any other name goes between backquotes (a backquote in it is
//! doubled). Text stands between double or single quotes. Weakest first: `or`, `and`, `not`, one comparison, `+ -`, `* / %`, unary `-`.
//! Evaluation is three-valued after Kleene: a missing field, an operation on the wrong type and a result that is not a finite number are
//! undefined; `undefined and false` is false, `undefined or true` is true.

mod eval;
mod lexer;
mod parser;

use std::fmt::{self, Write};

use serde::{Deserialize, Serialize};

pub use eval::{Operand, Scope};

/// How deep an expression may nest: evaluation and printing recurse.
const DEPTH_MAX: u16 = 100;
/// Bytes an expression may have.
const LENGTH_MAX: usize = 8192;

/// A condition, parsed.
///
/// Kept and written as the text it is printed as.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Expr {
    root: Node,
    fields: Vec<String>,
}

/// What is wrong with an expression, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ExprError {
    /// Byte offset of the first offending character.
    pub offset: usize,
    /// Length in bytes, at least 1 except at the end of the text.
    pub length: usize,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
}

impl ExprError {
    fn new(span: (usize, usize), message: impl Into<String>) -> Self {
        Self { offset: span.0, length: span.1.saturating_sub(span.0), message: message.into(), help: None }
    }

    fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Node {
    Number(f64),
    Text(Box<str>),
    Bool(bool),
    /// Index into [`Expr::fields`].
    Field(u16),
    Tag(Box<str>),
    Negate(Box<Node>),
    Not(Box<Node>),
    Binary(Binary, Box<(Node, Node)>),
    Call(Function, Vec<Node>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Binary {
    Or,
    And,
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

impl Binary {
    fn symbol(self) -> &'static str {
        match self {
            Self::Or => "or",
            Self::And => "and",
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessEqual => "<=",
            Self::Greater => ">",
            Self::GreaterEqual => ">=",
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::Remainder => "%",
        }
    }

    fn is_logic(self) -> bool {
        matches!(self, Self::Or | Self::And)
    }

    fn is_comparison(self) -> bool {
        matches!(self, Self::Equal | Self::NotEqual | Self::Less | Self::LessEqual | Self::Greater | Self::GreaterEqual)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Function {
    Abs,
    Min,
    Max,
    Sqrt,
    Ln,
    Exp,
    Floor,
    Ceil,
    Round,
}

impl Function {
    const ALL: [(&'static str, Self); 9] = [
        ("abs", Self::Abs),
        ("min", Self::Min),
        ("max", Self::Max),
        ("sqrt", Self::Sqrt),
        ("ln", Self::Ln),
        ("exp", Self::Exp),
        ("floor", Self::Floor),
        ("ceil", Self::Ceil),
        ("round", Self::Round),
    ];

    fn find(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(n, _)| *n == name).map(|(_, f)| *f)
    }

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, f)| *f == self).map_or("", |(n, _)| n)
    }
}

impl Expr {
    /// Reads a condition.
    ///
    /// # Errors
    /// At the first character that cannot stand there, at an operand of the wrong type, or at the whole when it can be neither true
    /// nor false.
    pub fn parse(text: &str) -> Result<Self, ExprError> {
        parser::parse(text)
    }

    /// Names of the fields it reads, in order of first use.
    pub fn fields(&self) -> &[String] {
        &self.fields
    }
}

impl From<Expr> for String {
    fn from(expr: Expr) -> Self {
        expr.to_string()
    }
}

impl TryFrom<String> for Expr {
    type Error = ExprError;

    fn try_from(text: String) -> Result<Self, ExprError> {
        // What is printed has more parentheses than what was written, and may be longer than what one may write.
        parser::parse_printed(&text)
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(&self.root, f)
    }
}

impl Expr {
    fn write(&self, node: &Node, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match node {
            Node::Number(v) => write!(f, "{v:?}"),
            Node::Text(v) => write_text(v, f),
            Node::Bool(v) => write!(f, "{v}"),
            Node::Field(index) => write_name(&self.fields[*index as usize], f),
            Node::Tag(key) => {
                f.write_str("tag(")?;
                write_text(key, f)?;
                f.write_char(')')
            }
            Node::Negate(inner) => {
                f.write_char('-')?;
                self.write_operand(inner, f)
            }
            Node::Not(inner) => {
                f.write_str("not ")?;
                self.write_operand(inner, f)
            }
            Node::Binary(operator, operands) => {
                self.write_operand(&operands.0, f)?;
                write!(f, " {} ", operator.symbol())?;
                self.write_operand(&operands.1, f)
            }
            Node::Call(function, arguments) => {
                write!(f, "{}(", function.name())?;
                for (i, argument) in arguments.iter().enumerate() {
                    if i > 0 {
                        f.write_str(", ")?;
                    }
                    self.write(argument, f)?;
                }
                f.write_char(')')
            }
        }
    }

    fn write_operand(&self, node: &Node, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if matches!(node, Node::Binary(..) | Node::Not(_) | Node::Negate(_)) {
            f.write_char('(')?;
            self.write(node, f)?;
            f.write_char(')')
        } else {
            self.write(node, f)
        }
    }
}

fn write_text(text: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_char('"')?;
    for c in text.chars() {
        match c {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            '\t' => f.write_str("\\t")?,
            '\r' => f.write_str("\\r")?,
            c => f.write_char(c)?,
        }
    }
    f.write_char('"')
}

fn write_name(name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if lexer::is_plain_name(name) { f.write_str(name) } else { write!(f, "`{}`", name.replace('`', "``")) }
}

#[cfg(test)]
mod tests;
