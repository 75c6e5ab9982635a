//! `{NAME}` in a setting stands for the folder of the step of that name.

use toml::Value;

/// The names in all strings of a value.
pub(super) fn names(value: &Value) -> Vec<String> {
    let mut names = Vec::new();
    let _ = replaced(value, &mut |name| {
        names.push(name.to_owned());
        None
    });
    names
}

/// The value with each `{NAME}` replaced by what `with` gives for it, and left alone where it gives nothing.
pub(super) fn replaced(value: &Value, with: &mut dyn FnMut(&str) -> Option<String>) -> Value {
    match value {
        Value::String(text) => Value::String(text_replaced(text, with)),
        Value::Array(items) => Value::Array(items.iter().map(|v| replaced(v, with)).collect()),
        Value::Table(table) => {
            let entries = table.iter().map(|(k, v)| (k.clone(), replaced(v, with)));
            Value::Table(entries.collect())
        }
        other => other.clone(),
    }
}

fn text_replaced(text: &str, with: &mut dyn FnMut(&str) -> Option<String>) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once('{') {
        out.push_str(before);
        let Some((name, behind)) = after.split_once('}') else {
            out.push('{');
            rest = after;
            continue;
        };
        match with(name) {
            Some(folder) => out.push_str(&folder),
            None => out.push_str(&format!("{{{name}}}")),
        }
        rest = behind;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_and_replaced_at_any_depth() {
        let value: Value =
            toml::from_str("a = [{ path = '{teacher}/teachers/wide' }, 'x{one}{two}y']").unwrap();
        assert_eq!(names(&value), ["teacher", "one", "two"]);
        let replaced = replaced(&value, &mut |name| (name != "two").then(|| format!("<{name}>")));
        assert_eq!(replaced["a"][0]["path"].as_str(), Some("<teacher>/teachers/wide"));
        assert_eq!(replaced["a"][1].as_str(), Some("x<one>{two}y"));
    }

    #[test]
    fn text_without_names_stays() {
        for text in ["", "plain", "open {", "} shut", "a{b"] {
            let value = Value::String(text.into());
            assert_eq!(replaced(&value, &mut |_| Some("!".into())), value, "{text}");
        }
    }
}
