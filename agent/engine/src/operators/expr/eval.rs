//! Evaluation: a walk over the tree, three-valued, with arithmetic that is the same on every platform.

use super::{Binary, Expr, Function, Node};

/// A value during evaluation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Operand<'a> {
    /// Missing, or of no use here.
    Undefined,
    /// A finite number.
    Number(f64),
    /// True or false.
    Bool(bool),
    /// Text.
    Text(&'a str),
}

impl Operand<'_> {
    fn number(value: f64) -> Self {
        if value.is_finite() { Self::Number(value) } else { Self::Undefined }
    }

    fn as_bool(self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(value),
            _ => None,
        }
    }

    fn as_number(self) -> Option<f64> {
        match self {
            Self::Number(value) => Some(value),
            _ => None,
        }
    }
}

/// What an expression is evaluated on.
pub trait Scope {
    /// The field with this index in [`Expr::fields`].
    fn field(&self, index: usize) -> Operand<'_>;
    /// The tag with this key.
    fn tag(&self, key: &str) -> Operand<'_>;
}

impl Expr {
    /// Whether it holds; `None` when it cannot be said.
    pub fn holds(&self, scope: &impl Scope) -> Option<bool> {
        eval(&self.root, scope).as_bool()
    }

    /// The number that decided: the left side of the first comparison that made the whole what it is, else its right side.
    pub fn deciding_number(&self, scope: &impl Scope) -> Option<f64> {
        decider(&self.root, scope)
    }
}

fn decider(node: &Node, scope: &impl Scope) -> Option<f64> {
    match node {
        Node::Not(inner) => decider(inner, scope),
        Node::Binary(operator, operands) if operator.is_logic() => {
            let outcome = eval(node, scope);
            let (left, right) = (&operands.0, &operands.1);
            let by = |part: &Node| if eval(part, scope) == outcome { decider(part, scope) } else { None };
            by(left).or_else(|| by(right))
        }
        Node::Binary(operator, operands) if operator.is_comparison() => {
            eval(&operands.0, scope).as_number().or_else(|| eval(&operands.1, scope).as_number())
        }
        _ => None,
    }
}

fn eval<'s>(node: &'s Node, scope: &'s impl Scope) -> Operand<'s> {
    match node {
        Node::Number(value) => Operand::Number(*value),
        Node::Text(text) => Operand::Text(text),
        Node::Bool(value) => Operand::Bool(*value),
        Node::Field(index) => match scope.field(*index as usize) {
            Operand::Number(value) => Operand::number(value),
            other => other,
        },
        Node::Tag(key) => scope.tag(key),
        Node::Negate(inner) => eval(inner, scope).as_number().map_or(Operand::Undefined, |v| Operand::Number(-v)),
        Node::Not(inner) => eval(inner, scope).as_bool().map_or(Operand::Undefined, |v| Operand::Bool(!v)),
        Node::Binary(operator, operands) => binary(*operator, &operands.0, &operands.1, scope),
        Node::Call(function, arguments) => call(*function, arguments, scope),
    }
}

fn binary<'s>(operator: Binary, left: &'s Node, right: &'s Node, scope: &'s impl Scope) -> Operand<'s> {
    if operator.is_logic() {
        // The value that settles it alone: false for `and`, true for `or`.
        let settles = operator == Binary::Or;
        let left = eval(left, scope).as_bool();
        if left == Some(settles) {
            return Operand::Bool(settles);
        }
        return match (left, eval(right, scope).as_bool()) {
            (_, Some(right)) if right == settles => Operand::Bool(settles),
            (Some(_), Some(_)) => Operand::Bool(!settles),
            _ => Operand::Undefined,
        };
    }
    let (left, right) = (eval(left, scope), eval(right, scope));
    if operator.is_comparison() {
        return compare(operator, left, right);
    }
    let (Some(a), Some(b)) = (left.as_number(), right.as_number()) else { return Operand::Undefined };
    Operand::number(match operator {
        Binary::Add => a + b,
        Binary::Subtract => a - b,
        Binary::Multiply => a * b,
        Binary::Divide => a / b,
        _ => libm::fmod(a, b),
    })
}

fn compare(operator: Binary, left: Operand<'_>, right: Operand<'_>) -> Operand<'static> {
    let ordering = match (left, right) {
        (Operand::Number(a), Operand::Number(b)) => a.partial_cmp(&b),
        (Operand::Text(a), Operand::Text(b)) => Some(a.cmp(b)),
        (Operand::Bool(a), Operand::Bool(b)) if matches!(operator, Binary::Equal | Binary::NotEqual) => Some(a.cmp(&b)),
        _ => None,
    };
    let Some(ordering) = ordering else { return Operand::Undefined };
    Operand::Bool(match operator {
        Binary::Equal => ordering.is_eq(),
        Binary::NotEqual => ordering.is_ne(),
        Binary::Less => ordering.is_lt(),
        Binary::LessEqual => ordering.is_le(),
        Binary::Greater => ordering.is_gt(),
        _ => ordering.is_ge(),
    })
}

fn call<'s>(function: Function, arguments: &'s [Node], scope: &'s impl Scope) -> Operand<'s> {
    let mut values = arguments.iter().map(|a| eval(a, scope).as_number());
    let Some(Some(first)) = values.next() else { return Operand::Undefined };
    Operand::number(match function {
        Function::Abs => libm::fabs(first),
        Function::Sqrt => libm::sqrt(first),
        Function::Ln => libm::log(first),
        Function::Exp => libm::exp(first),
        Function::Floor => libm::floor(first),
        Function::Ceil => libm::ceil(first),
        Function::Round => libm::round(first),
        Function::Min | Function::Max => {
            let mut best = first;
            for value in values {
                let Some(value) = value else { return Operand::Undefined };
                if (function == Function::Min) == (value < best) && value != best {
                    best = value;
                }
            }
            best
        }
    })
}
