//! Tokens to a tree, with the types that can be known before any point is seen.

use super::{
    Binary, DEPTH_MAX, Expr, ExprError, Function, LENGTH_MAX, Node,
    lexer::{Spanned, Token, tokens},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    /// A field: known when a point comes.
    Any,
    Number,
    Text,
    Bool,
}

impl Type {
    fn words(self) -> &'static str {
        match self {
            Self::Any => "a field",
            Self::Number => "a number",
            Self::Text => "text",
            Self::Bool => "true or false",
        }
    }

    fn fits(self, wanted: Self) -> bool {
        self == Self::Any || self == wanted
    }
}

/// A part of the tree while it is put together.
struct Part {
    node: Node,
    kind: Type,
    span: (usize, usize),
    depth: u16,
}

struct Parser {
    tokens: Vec<Spanned>,
    at: usize,
    depth: u16,
    depth_max: u16,
    fields: Vec<String>,
}

pub(super) fn parse(text: &str) -> Result<Expr, ExprError> {
    within(text, LENGTH_MAX, DEPTH_MAX)
}

/// Reads what was printed: every operand that is not a leaf has parentheses of its own there.
pub(super) fn parse_printed(text: &str) -> Result<Expr, ExprError> {
    within(text, 8 * LENGTH_MAX, 4 * DEPTH_MAX)
}

fn within(text: &str, length_max: usize, depth_max: u16) -> Result<Expr, ExprError> {
    if text.len() > length_max {
        return Err(ExprError::new((length_max, text.len()), format!("an expression has at most {length_max} bytes")));
    }
    let mut parser = Parser { tokens: tokens(text)?, at: 0, depth: 0, depth_max, fields: Vec::new() };
    let part = parser.or()?;
    if *parser.peek() != Token::End {
        return Err(parser.unexpected("an operator"));
    }
    if !part.kind.fits(Type::Bool) {
        return Err(ExprError::new(part.span, format!("a condition is true or false, this is {}", part.kind.words()))
            .help("compare it with something, for example `… > 80`"));
    }
    Ok(Expr { root: part.node, fields: parser.fields })
}

impl Parser {
    fn peek(&self) -> &Token {
        &self.tokens[self.at].0
    }

    fn span(&self) -> (usize, usize) {
        self.tokens[self.at].1
    }

    fn take(&mut self) -> Spanned {
        let token = self.tokens[self.at].clone();
        // The end stays: it is met as often as one looks.
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        token
    }

    fn accept(&mut self, sign: &str) -> bool {
        let found = matches!(self.peek(), Token::Sign(s) if *s == sign);
        if found {
            self.take();
        }
        found
    }

    fn expect(&mut self, sign: &str) -> Result<(), ExprError> {
        if self.accept(sign) { Ok(()) } else { Err(self.unexpected(&format!("\"{sign}\""))) }
    }

    fn unexpected(&self, wanted: &str) -> ExprError {
        let found = match self.peek() {
            Token::End => "the end".to_owned(),
            Token::Sign(sign) => format!("\"{sign}\""),
            Token::Name(name) | Token::Quoted(name) => format!("the name {name:?}"),
            Token::Number(value) => format!("the number {value}"),
            Token::Text(text) => format!("the text {text:?}"),
        };
        let error = ExprError::new(self.span(), format!("expected {wanted}, found {found}"));
        match self.peek() {
            Token::Name(name) if name.eq_ignore_ascii_case("and") || name.eq_ignore_ascii_case("or") => {
                error.help(format!("write `{}`", name.to_ascii_lowercase()))
            }
            _ => error,
        }
    }

    /// Runs `inner` one level deeper, as long as the stack is surely large enough.
    fn nested(&mut self, inner: impl FnOnce(&mut Self) -> Result<Part, ExprError>) -> Result<Part, ExprError> {
        if self.depth >= self.depth_max {
            return Err(ExprError::new(self.span(), "the expression nests too deep"));
        }
        self.depth += 1;
        let part = inner(self);
        self.depth -= 1;
        part
    }

    fn or(&mut self) -> Result<Part, ExprError> {
        let mut left = self.and()?;
        while self.accept("or") {
            let right = self.and()?;
            left = binary(Binary::Or, left, right)?;
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<Part, ExprError> {
        let mut left = self.not()?;
        while self.accept("and") {
            let right = self.not()?;
            left = binary(Binary::And, left, right)?;
        }
        Ok(left)
    }

    fn not(&mut self) -> Result<Part, ExprError> {
        let start = self.span().0;
        if !self.accept("not") {
            return self.comparison();
        }
        let inner = self.nested(Self::not)?;
        demand(&inner, Type::Bool, "`not`")?;
        let span = (start, inner.span.1);
        checked(Part { depth: inner.depth + 1, node: Node::Not(Box::new(inner.node)), kind: Type::Bool, span })
    }

    fn comparison_sign(&self) -> Option<Binary> {
        let Token::Sign(sign) = self.peek() else { return None };
        Some(match *sign {
            "==" => Binary::Equal,
            "!=" => Binary::NotEqual,
            "<" => Binary::Less,
            "<=" => Binary::LessEqual,
            ">" => Binary::Greater,
            ">=" => Binary::GreaterEqual,
            _ => return None,
        })
    }

    fn comparison(&mut self) -> Result<Part, ExprError> {
        let left = self.sum()?;
        let Some(operator) = self.comparison_sign() else { return Ok(left) };
        self.take();
        let right = self.sum()?;
        if self.comparison_sign().is_some() {
            return Err(ExprError::new(self.span(), "comparisons cannot be chained").help("write `a < b and b < c`"));
        }
        binary(operator, left, right)
    }

    fn sum(&mut self) -> Result<Part, ExprError> {
        let mut left = self.product()?;
        loop {
            let operator = if self.accept("+") {
                Binary::Add
            } else if self.accept("-") {
                Binary::Subtract
            } else {
                return Ok(left);
            };
            let right = self.product()?;
            left = binary(operator, left, right)?;
        }
    }

    fn product(&mut self) -> Result<Part, ExprError> {
        let mut left = self.unary()?;
        loop {
            let operator = if self.accept("*") {
                Binary::Multiply
            } else if self.accept("/") {
                Binary::Divide
            } else if self.accept("%") {
                Binary::Remainder
            } else {
                return Ok(left);
            };
            let right = self.unary()?;
            left = binary(operator, left, right)?;
        }
    }

    fn unary(&mut self) -> Result<Part, ExprError> {
        let start = self.span().0;
        if !self.accept("-") {
            return self.primary();
        }
        let inner = self.nested(Self::unary)?;
        demand(&inner, Type::Number, "`-`")?;
        let span = (start, inner.span.1);
        checked(Part { depth: inner.depth + 1, node: Node::Negate(Box::new(inner.node)), kind: Type::Number, span })
    }

    fn primary(&mut self) -> Result<Part, ExprError> {
        let span = self.span();
        let leaf = |node, kind| Ok(Part { node, kind, span, depth: 1 });
        match self.peek().clone() {
            Token::Number(value) => {
                self.take();
                leaf(Node::Number(value), Type::Number)
            }
            Token::Text(text) => {
                self.take();
                leaf(Node::Text(text.into()), Type::Text)
            }
            Token::Sign(sign @ ("true" | "false")) => {
                self.take();
                leaf(Node::Bool(sign == "true"), Type::Bool)
            }
            Token::Quoted(name) => {
                self.take();
                let field = self.field(name, span)?;
                leaf(field, Type::Any)
            }
            Token::Name(name) => {
                self.take();
                if matches!(self.peek(), Token::Sign("(")) {
                    return self.call(&name, span);
                }
                if name == "tag" || Function::find(&name).is_some() {
                    return Err(ExprError::new(span, format!("`{name}` is a function and needs arguments"))
                        .help(format!("a field of this name is written `{name}` with backquotes")));
                }
                let field = self.field(name, span)?;
                leaf(field, Type::Any)
            }
            Token::Sign("(") => {
                self.take();
                let inner = self.nested(Self::or)?;
                let end = self.span().1;
                self.expect(")")?;
                Ok(Part { span: (span.0, end), ..inner })
            }
            _ => Err(self.unexpected("a field, a number, text or \"(\"")),
        }
    }

    fn field(&mut self, name: String, span: (usize, usize)) -> Result<Node, ExprError> {
        if let Some(index) = self.fields.iter().position(|f| *f == name) {
            return Ok(Node::Field(index as u16));
        }
        if self.fields.len() >= usize::from(u16::MAX) {
            return Err(ExprError::new(span, "too many fields"));
        }
        self.fields.push(name);
        Ok(Node::Field((self.fields.len() - 1) as u16))
    }

    fn call(&mut self, name: &str, span: (usize, usize)) -> Result<Part, ExprError> {
        self.expect("(")?;
        if name == "tag" {
            let (token, at) = self.take();
            let Token::Text(key) = token else {
                return Err(ExprError::new(at, "`tag` wants the tag's key as text").help("write `tag(\"device\")`"));
            };
            let end = self.span().1;
            self.expect(")")?;
            return Ok(Part { node: Node::Tag(key.into()), kind: Type::Text, span: (span.0, end), depth: 1 });
        }
        let Some(function) = Function::find(name) else {
            let names: Vec<&str> = Function::ALL.iter().map(|(n, _)| *n).collect();
            return Err(
                ExprError::new(span, format!("there is no function {name:?}")).help(format!("functions are {} and tag", names.join(", ")))
            );
        };
        let (mut arguments, mut depth) = (Vec::new(), 0);
        if !self.accept(")") {
            loop {
                let argument = self.nested(Self::or)?;
                demand(&argument, Type::Number, &format!("`{name}`"))?;
                depth = depth.max(argument.depth);
                arguments.push(argument.node);
                if !self.accept(",") {
                    break;
                }
            }
            let end = self.span().1;
            self.expect(")")?;
            return self.finish_call(function, arguments, (span.0, end), depth);
        }
        let end = self.tokens[self.at - 1].1.1;
        self.finish_call(function, arguments, (span.0, end), depth)
    }

    fn finish_call(&self, function: Function, arguments: Vec<Node>, span: (usize, usize), depth: u16) -> Result<Part, ExprError> {
        let (fits, wanted) = match function {
            Function::Min | Function::Max => (arguments.len() >= 2, "two or more arguments"),
            _ => (arguments.len() == 1, "one argument"),
        };
        if !fits {
            return Err(ExprError::new(span, format!("`{}` takes {wanted}, here are {}", function.name(), arguments.len())));
        }
        checked(Part { node: Node::Call(function, arguments), kind: Type::Number, span, depth: depth + 1 })
    }
}

fn demand(part: &Part, wanted: Type, by: &str) -> Result<(), ExprError> {
    if part.kind.fits(wanted) {
        return Ok(());
    }
    Err(ExprError::new(part.span, format!("{by} wants {}, this is {}", wanted.words(), part.kind.words())))
}

fn binary(operator: Binary, left: Part, right: Part) -> Result<Part, ExprError> {
    let by = format!("`{}`", operator.symbol());
    let kind = if operator.is_logic() {
        demand(&left, Type::Bool, &by)?;
        demand(&right, Type::Bool, &by)?;
        Type::Bool
    } else if operator.is_comparison() {
        comparable(operator, &left, &right, &by)?;
        Type::Bool
    } else {
        demand(&left, Type::Number, &by)?;
        demand(&right, Type::Number, &by)?;
        Type::Number
    };
    let (span, depth) = ((left.span.0, right.span.1), left.depth.max(right.depth) + 1);
    checked(Part { node: Node::Binary(operator, Box::new((left.node, right.node))), kind, span, depth })
}

fn comparable(operator: Binary, left: &Part, right: &Part, by: &str) -> Result<(), ExprError> {
    if !matches!(operator, Binary::Equal | Binary::NotEqual) {
        for part in [left, right] {
            if part.kind == Type::Bool {
                return Err(ExprError::new(part.span, format!("{by} orders numbers or text, this is true or false")));
            }
        }
    }
    if left.kind != Type::Any && right.kind != Type::Any && left.kind != right.kind {
        let message = format!("{by} compares {} with {}, which are never equal", left.kind.words(), right.kind.words());
        return Err(ExprError::new(right.span, message));
    }
    Ok(())
}

/// Left-leaning chains grow deep without recursion in the parser; what walks the tree later does recurse.
fn checked(part: Part) -> Result<Part, ExprError> {
    if part.depth > DEPTH_MAX {
        return Err(ExprError::new(part.span, "the expression nests too deep").help("split it with parentheses in the middle"));
    }
    Ok(part)
}
