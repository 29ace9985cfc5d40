//! Tests of the expression language: meaning, places of errors, and that nothing hostile gets through.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

struct Values<'a>(&'a Expr, Vec<(&'a str, Operand<'a>)>);

impl Scope for Values<'_> {
    fn field(&self, index: usize) -> Operand<'_> {
        let name = &self.0.fields()[index];
        self.1.iter().find(|(n, _)| n == name).map_or(Operand::Undefined, |(_, v)| *v)
    }

    fn tag(&self, key: &str) -> Operand<'_> {
        if key == "site" { Operand::Text("north") } else { Operand::Undefined }
    }
}

fn holds(text: &str) -> Option<bool> {
    let expr = Expr::parse(text).unwrap();
    let values = vec![
        ("t", Operand::Number(80.5)),
        ("zero", Operand::Number(0.0)),
        ("on", Operand::Bool(true)),
        ("mode", Operand::Text("auto")),
        ("odd-name", Operand::Number(3.0)),
        ("a.b", Operand::Number(-7.0)),
    ];
    expr.holds(&Values(&expr, values))
}

#[test]
fn conditions_mean_what_they_say() {
    for (text, expected) in [
        ("t > 80", Some(true)),
        ("t > 80.5", Some(false)),
        ("t >= 80.5 and on", Some(true)),
        ("not on or t < 0", Some(false)),
        ("1 + 2 * 3 == 7", Some(true)),
        ("(1 + 2) * 3 == 9", Some(true)),
        ("10 - 2 - 3 == 5", Some(true)),
        ("-t < -80", Some(true)),
        ("abs(a.b) == 7 and a.b % 4 == -3", Some(true)),
        ("min(3, 1, 2) == 1 and max(3, t) == t", Some(true)),
        ("sqrt(16) == 4 and floor(1.7) == 1 and ceil(1.2) == 2 and round(2.5) == 3", Some(true)),
        ("exp(0) == 1 and ln(1) == 0", Some(true)),
        ("`odd-name` == 3", Some(true)),
        ("mode == \"auto\" and mode != 'off'", Some(true)),
        ("tag(\"site\") == 'north'", Some(true)),
        ("on == true", Some(true)),
        ("t > 80 == on", None),
    ] {
        if text == "t > 80 == on" {
            assert!(Expr::parse(text).is_err());
            continue;
        }
        assert_eq!(holds(text), expected, "{text}");
    }
}

#[test]
fn what_cannot_be_known_is_undefined_unless_the_rest_settles_it() {
    for (text, expected) in [
        ("missing > 3", None),
        ("missing > 3 and t > 80", None),
        ("missing > 3 and t < 80", Some(false)),
        ("t < 80 and missing > 3", Some(false)),
        ("missing > 3 or t > 80", Some(true)),
        ("not missing", None),
        ("t / zero > 1", None),
        ("zero / zero == 0", None),
        ("ln(zero) < 0", None),
        ("sqrt(a.b) > 0", None),
        ("mode > 3", None),
        ("t", None),
        ("tag(\"nowhere\") == \"x\"", None),
    ] {
        assert_eq!(holds(text), expected, "{text}");
    }
}

#[test]
fn errors_point_at_the_character() {
    for (text, offset, length, word) in [
        ("t > ", 4, 0, "the end"),
        ("t > 80 && on", 7, 2, "&&"),
        ("t = 80", 2, 1, "="),
        ("t > 80)", 6, 1, "\")\""),
        ("t > 8O", 4, 2, "number"),
        ("t + 1", 0, 5, "true or false"),
        ("\"a\" + 1 > 2", 0, 3, "number"),
        ("not 5", 4, 1, "true or false"),
        ("t > 1 and 3", 10, 1, "true or false"),
        ("1 < t < 3", 6, 1, "chained"),
        ("foo(1) > 2", 0, 3, "function"),
        ("sqrt(1, 2) > 2", 0, 10, "one argument"),
        ("min(1) > 2", 0, 6, "two"),
        ("t > \"a", 4, 1, "closed"),
        ("t > 80 §", 7, 2, "character"),
        ("`a > 3", 0, 1, "closed"),
        ("1 == \"1\"", 5, 3, "never equal"),
        ("tag(site) == 'a'", 4, 4, "text"),
        ("", 0, 0, "the end"),
        ("t > 80 AND on", 7, 3, "AND"),
    ] {
        let error = Expr::parse(text).unwrap_err();
        assert_eq!((error.offset, error.length), (offset, length), "{text}: {error}");
        assert!(error.message.contains(word), "{text}: {error}");
    }
}

#[test]
fn the_number_that_decided_is_told() {
    for (text, expected) in [
        ("t > 80", Some(80.5)),
        ("80 < t", Some(80.0)),
        ("on and t > 80", Some(80.5)),
        ("zero > 1 or `odd-name` > 2", Some(3.0)),
        ("not (t < 3)", Some(80.5)),
        ("on", None),
    ] {
        let expr = Expr::parse(text).unwrap();
        let values = Values(
            &expr,
            vec![
                ("t", Operand::Number(80.5)),
                ("zero", Operand::Number(0.0)),
                ("on", Operand::Bool(true)),
                ("odd-name", Operand::Number(3.0)),
            ],
        );
        assert_eq!(expr.deciding_number(&values), expected, "{text}");
    }
}

#[test]
fn depth_is_bounded_for_every_way_to_nest() {
    for text in [
        format!("{}t{} > 1", "(".repeat(4000), ")".repeat(4000)),
        format!("{} t", "not ".repeat(2000)),
        format!("{}t > 1", "-".repeat(8000)),
        format!("t{} > 1", " + 1".repeat(2000)),
        format!("{}t{} > 1", "abs(".repeat(1500), ")".repeat(1500)),
    ] {
        assert!(Expr::parse(&text).unwrap_err().message.contains("deep"), "{}", &text[..40]);
    }
    assert!(Expr::parse(&"t".repeat(9000)).is_err());
}

fn numbers() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        (0.0..1e9f64).prop_map(|v| format!("{v:?}")),
        "[a-z][a-z0-9_.]{0,6}".prop_filter("keywords are no names", |n| lexer::is_plain_name(n)),
        "[ a-z`-]{1,6}".prop_map(|n| format!("`{}`", n.replace('`', "``"))),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            (inner.clone(), prop::sample::select(vec!["+", "-", "*", "/", "%"]), inner.clone())
                .prop_map(|(a, op, b)| format!("({a}) {op} ({b})")),
            inner.clone().prop_map(|a| format!("-({a})")),
            inner.clone().prop_map(|a| format!("sqrt({a})")),
            (inner.clone(), inner).prop_map(|(a, b)| format!("max({a}, {b})")),
        ]
    })
}

fn conditions() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        (numbers(), prop::sample::select(vec!["==", "!=", "<", "<=", ">", ">="]), numbers()).prop_map(|(a, op, b)| format!("{a} {op} {b}")),
        ("[ -~é]{0,8}", "[a-z]{1,4}").prop_map(|(t, k)| format!("tag(\"{k}\") == {t:?}").replace("\\'", "'")),
        Just("true".to_owned()),
    ];
    leaf.prop_recursive(4, 16, 2, |inner| {
        prop_oneof![
            (inner.clone(), prop::sample::select(vec!["and", "or"]), inner.clone()).prop_map(|(a, op, b)| format!("({a}) {op} {b}")),
            inner.prop_map(|a| format!("not ({a})")),
        ]
    })
}

proptest! {
    #[test]
    fn any_text_is_parsed_or_refused_within_itself(text in "\\PC{0,80}") {
        if let Err(error) = Expr::parse(&text) {
            prop_assert!(error.offset + error.length <= text.len());
            prop_assert!(text.is_char_boundary(error.offset) && text.is_char_boundary(error.offset + error.length));
        }
    }

    #[test]
    fn what_looks_like_an_expression_is_parsed_or_refused(text in "([a-z`\"'()<>=!+*/%., 0-9-]|and |or |not |tag\\(){0,60}") {
        if let Ok(expr) = Expr::parse(&text) {
            let values = Values(&expr, vec![]);
            let _ = expr.holds(&values);
        }
    }

    #[test]
    fn what_is_printed_reads_back_the_same(text in conditions()) {
        let expr = Expr::parse(&text).unwrap();
        let printed = expr.to_string();
        prop_assert_eq!(Expr::parse(&printed).unwrap(), expr);
    }
}
