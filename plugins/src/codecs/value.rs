//! The `value` format: a payload that is one bare value, as simple sensors publish it.

use weir_plugin_api::{
    Collector, Value,
    collector::{Refusal, SeriesId},
    options::Section,
    plugin::Decoder,
};

weir_plugin_api::choice! {
    /// What the value is.
    pub enum DataType {
        /// A signed integer.
        Integer = "integer",
        /// The same.
        Int = "int",
        /// A double.
        Float = "float",
        /// Text, as it stands.
        Text = "string",
        /// `true`, `false`, `1`, `0`, `t`, `f` and their capitals.
        Boolean = "boolean",
        /// The same.
        Bool = "bool",
        /// An integer if it reads as one, else text.
        AutoInteger = "auto_integer",
        /// A double if it reads as one, else text.
        AutoFloat = "auto_float",
    }
}

weir_plugin_api::options! {
    /// Options of `data_format = "value"`.
    pub struct ValueOptions {
        /// What the value is; of numbers and booleans the last word of the payload counts.
        data_type: DataType = DataType::Integer,
        /// Name of the field.
        value_field_name: String = "value".into(),
    }
}

/// Reads one bare value per payload.
#[derive(Clone, Debug)]
pub struct ValueDecoder {
    data_type: DataType,
    field: String,
}

impl ValueDecoder {
    /// Reads the options.
    pub fn read(section: &Section<'_>) -> Option<Self> {
        let options = ValueOptions::read(section)?;
        if options.value_field_name.is_empty() {
            section.error_at("value_field_name", "`value_field_name`: a field has a name");
            return None;
        }
        Some(Self { data_type: options.data_type, field: options.value_field_name })
    }

    fn value<'t>(&self, text: &'t str) -> Result<Value<'t>, String> {
        let text = text.trim_matches('\0').trim();
        let last = text.split_whitespace().next_back().unwrap_or("");
        let whole = match self.data_type {
            DataType::Integer | DataType::Int => last.parse().map(Value::Int).map_err(|_| "not an integer of 64 bits"),
            DataType::Float => last.parse().map(Value::Float).map_err(|_| "not a number"),
            DataType::Boolean | DataType::Bool => boolean(last).map(Value::Bool).ok_or("not a boolean"),
            DataType::Text => Ok(Value::Text(text)),
            DataType::AutoInteger => Ok(last.parse().map_or(Value::Text(text), Value::Int)),
            DataType::AutoFloat => Ok(last.parse().map_or(Value::Text(text), Value::Float)),
        };
        whole.map_err(str::to_owned)
    }
}

/// A boolean in one of the spellings Go reads.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "True" | "TRUE" => Some(true),
        "0" | "f" | "F" | "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

impl Decoder for ValueDecoder {
    fn decode(&mut self, bytes: &[u8], out: &mut Collector) -> usize {
        let read = std::str::from_utf8(bytes).map_err(|_| "not UTF-8".to_owned()).and_then(|text| self.value(text));
        match read {
            Ok(value) => {
                let Ok(series) = out.series(b"", |_| Ok::<_, std::convert::Infallible>(()));
                match series {
                    SeriesId::Id(id) => {
                        out.begin(id, None);
                        out.field(self.field.as_bytes(), value);
                        out.end();
                    }
                    other => out.skip(other),
                }
            }
            Err(reason) => out.refuse(Refusal::Parse, reason, bytes),
        }
        bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use weir_plugin_api::{Position, testing};

    use super::*;

    fn read(data_type: DataType, payload: &[u8]) -> (Vec<String>, usize) {
        let (lines, refused) = testing::decode(&mut ValueDecoder { data_type, field: "value".into() }, payload);
        (lines, refused.len())
    }

    #[test]
    fn values_read_as_telegraf_documents_them() {
        for (data_type, payload, expected) in [
            (DataType::Integer, "55", Some("55i")),
            (DataType::Integer, " load 1 55\n", Some("55i")),
            (DataType::Integer, "55.5", None),
            (DataType::Integer, "", None),
            (DataType::Float, "64.5\0", Some("64.5")),
            (DataType::Float, "x", None),
            (DataType::Float, "NaN", None),
            (DataType::Boolean, "true", Some("true")),
            (DataType::Boolean, "yes", None),
            (DataType::Text, " two words ", Some("\"two words\"")),
            (DataType::AutoInteger, "12", Some("12i")),
            (DataType::AutoInteger, "a 1.5", Some("\"a 1.5\"")),
            (DataType::AutoFloat, "12", Some("12")),
            (DataType::AutoFloat, "off", Some("\"off\"")),
        ] {
            let (lines, _) = read(data_type, payload.as_bytes());
            assert_eq!(lines.first().cloned(), expected.map(|v| format!("test value={v} ?")), "{data_type:?} {payload:?}");
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_counted_and_never_panic(payload in proptest::collection::vec(any::<u8>(), 0..40)) {
            for data_type in [DataType::Integer, DataType::Float, DataType::Text, DataType::Boolean, DataType::AutoFloat] {
                let (mut collector, mut receiver) = testing::collector();
                ValueDecoder { data_type, field: "value".into() }.decode(&payload, &mut collector);
                let _ = collector.try_flush(Position::None);
                let points = receiver.take().len() as u64;
                prop_assert_eq!(receiver.counts.read, 1);
                prop_assert_eq!(1, points + receiver.counts.not_recorded());
            }
        }
    }
}
