//! CSV, read as Telegraf's `csv` parser reads it: names from a header or the options, types guessed or told.
//!
//! The header is remembered from payload to payload until the decoder is reset, so that a followed file or a stream needs it once.

use ::csv::{ByteRecord, ReaderBuilder, Trim};
use weir_plugin_api::{
    Collector, Value,
    collector::{Refusal, SeriesId},
    options::Section,
    plugin::Decoder,
};

use super::{timestamp::TimeFormat, value::boolean};

weir_plugin_api::choice! {
    /// When the header is read anew.
    pub enum ResetMode {
        /// Once per file or connection.
        None = "none",
        /// In every payload.
        Always = "always",
    }
}

weir_plugin_api::options! {
    /// Options of `data_format = "csv"`.
    pub struct CsvOptions {
        /// Rows at the beginning that name the columns; names of several rows are joined. 0: the names are in `csv_column_names`.
        csv_header_row_count: usize = 0,
        /// Names of the columns; with a header they replace its names.
        csv_column_names: Vec<String> = Vec::new(),
        /// Types of the columns, `int`, `float`, `bool` or `string`; without any they are guessed value by value.
        csv_column_types: Vec<String> = Vec::new(),
        /// Rows to leave out before the header.
        csv_skip_rows: usize = 0,
        /// Columns to leave out at the left.
        csv_skip_columns: usize = 0,
        /// Character between columns.
        csv_delimiter: String = ",".into(),
        /// Character that makes a row a comment when it begins with it; empty for none.
        csv_comment: String = String::new(),
        /// Take spaces around values away.
        csv_trim_space: bool = false,
        /// Columns that become tags.
        csv_tag_columns: Vec<String> = Vec::new(),
        /// Column with the measurement.
        csv_measurement_column: String = String::new(),
        /// Column with the time.
        csv_timestamp_column: String = String::new(),
        /// Format of the time: `unix`, `unix_ms`, `unix_us`, `unix_ns`, `rfc3339` or a Go layout; needed with `csv_timestamp_column`.
        csv_timestamp_format: String = String::new(),
        /// Time zone of times that name none: an IANA name, `UTC` or `Local`.
        csv_timezone: String = String::new(),
        /// Values that are left out, such as `-` or `N/A`.
        csv_skip_values: Vec<String> = Vec::new(),
        /// When the header is read anew.
        csv_reset_mode: ResetMode = ResetMode::None,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Guess,
    Int,
    Float,
    Bool,
    Text,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Field(Type),
    Tag,
    Measurement,
    Time,
}

#[derive(Clone, Debug)]
struct Column {
    name: String,
    what: Use,
}

/// Reads CSV. A bad row is refused and costs only itself.
#[derive(Clone, Debug)]
pub struct CsvDecoder {
    options: CsvOptions,
    types: Vec<Type>,
    time: Option<TimeFormat>,
    columns: Vec<Column>,
    /// Rows still to leave out.
    skip: usize,
    /// Header rows still to come.
    header: usize,
    /// Row number of the last one read, from 1.
    row: u64,
    left: usize,
    key: Vec<u8>,
}

impl CsvDecoder {
    /// Reads the options.
    pub fn read(section: &Section<'_>) -> Option<Self> {
        let options = CsvOptions::read(section)?;
        let errors = section.diagnostics().errors();
        if options.csv_header_row_count == 0 && options.csv_column_names.is_empty() {
            section.error("csv needs names of columns: set `csv_header_row_count` or `csv_column_names`");
        }
        let types = column_types(section, &options);
        if options.csv_delimiter.len() != 1 {
            section.error_at("csv_delimiter", "`csv_delimiter`: must be one ASCII character");
        }
        if options.csv_comment.len() > 1 {
            section.error_at("csv_comment", "`csv_comment`: must be one ASCII character");
        }
        let time = time_format(section, &options);
        if section.diagnostics().errors() > errors {
            return None;
        }
        let mut decoder = Self { options, types, time, columns: Vec::new(), skip: 0, header: 0, row: 0, left: 0, key: Vec::new() };
        decoder.reset();
        Some(decoder)
    }

    /// Adds a header row's names, column by column.
    fn name_columns(&mut self, record: &ByteRecord) {
        for (i, name) in record.iter().skip(self.options.csv_skip_columns).enumerate() {
            let name = String::from_utf8_lossy(name);
            match self.columns.get_mut(i) {
                Some(column) => column.name.push_str(&name),
                None => self.columns.push(Column { name: name.into_owned(), what: Use::Field(Type::Guess) }),
            }
        }
    }

    /// Decides, once the names are known, what each column is.
    fn settle_columns(&mut self) {
        let options = &self.options;
        if !options.csv_column_names.is_empty() {
            let names = options.csv_column_names.iter().skip(options.csv_skip_columns);
            self.columns = names.map(|name| Column { name: name.clone(), what: Use::Tag }).collect();
        }
        for (i, column) in self.columns.iter_mut().enumerate() {
            if options.csv_trim_space {
                column.name = column.name.trim().to_owned();
            }
            column.what = if options.csv_tag_columns.contains(&column.name) {
                Use::Tag
            } else if !column.name.is_empty() && column.name == options.csv_measurement_column {
                Use::Measurement
            } else if !column.name.is_empty() && column.name == options.csv_timestamp_column {
                Use::Time
            } else {
                Use::Field(self.types.get(i + options.csv_skip_columns).copied().unwrap_or(Type::Guess))
            };
        }
    }

    /// Makes a point of a row.
    fn row(&mut self, record: &ByteRecord, out: &mut Collector) -> Result<(), String> {
        let skipped = |text: &str, options: &CsvOptions| text.is_empty() || options.csv_skip_values.iter().any(|v| v == text);
        let mut time = None;
        self.key.clear();
        let cells = || record.iter().skip(self.options.csv_skip_columns).zip(&self.columns);
        for (i, (cell, column)) in cells().enumerate() {
            let text = std::str::from_utf8(cell).map_err(|_| format!("column \"{}\" is not UTF-8", column.name))?;
            match column.what {
                Use::Field(_) => {}
                Use::Time => {
                    let read = self.time.as_ref().map_or_else(|| Err("the time has no format".to_owned()), |f| f.read(text));
                    time = Some(read?);
                }
                Use::Tag | Use::Measurement if skipped(text, &self.options) => {}
                Use::Tag | Use::Measurement => {
                    for word in [&(i as u32).to_le_bytes()[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()] {
                        self.key.extend_from_slice(word);
                    }
                }
            }
        }
        if self.time.is_some() && time.is_none() {
            return Err(format!("the column \"{}\" with the time is missing", self.options.csv_timestamp_column));
        }
        let Ok(series) = out.series(&self.key, |parts| {
            for (cell, column) in cells() {
                match (column.what, std::str::from_utf8(cell)) {
                    (_, Ok(text)) if skipped(text, &self.options) => {}
                    (Use::Tag, Ok(text)) => parts.tag(&column.name, text),
                    (Use::Measurement, Ok(text)) => text.clone_into(&mut parts.measurement),
                    _ => {}
                }
            }
            Ok::<_, std::convert::Infallible>(())
        });
        let SeriesId::Id(id) = series else {
            out.skip(series);
            return Ok(());
        };
        out.begin(id, time);
        let mut fields = 0;
        for (cell, column) in cells() {
            let (Use::Field(wanted), Ok(text)) = (column.what, std::str::from_utf8(cell)) else { continue };
            if skipped(text, &self.options) {
                continue;
            }
            let value = value(text, wanted).ok_or_else(|| format!("column \"{}\" is not of its type", column.name))?;
            out.field(column.name.as_bytes(), value);
            fields += 1;
        }
        if fields == 0 {
            return Err("a row without any field".into());
        }
        out.end();
        Ok(())
    }
}

fn column_types(section: &Section<'_>, options: &CsvOptions) -> Vec<Type> {
    let types: Vec<Option<Type>> = options
        .csv_column_types
        .iter()
        .map(|name| match name.as_str() {
            "int" => Some(Type::Int),
            "float" => Some(Type::Float),
            "bool" => Some(Type::Bool),
            "string" => Some(Type::Text),
            _ => None,
        })
        .collect();
    if types.contains(&None) {
        section.error_at("csv_column_types", "`csv_column_types`: expected int, float, bool or string");
    }
    let names = options.csv_column_names.len();
    if !types.is_empty() && names > 0 && types.len() != names {
        section.error_at("csv_column_types", format!("`csv_column_types`: {} types for {names} names", types.len()));
    }
    types.into_iter().flatten().collect()
}

fn time_format(section: &Section<'_>, options: &CsvOptions) -> Option<TimeFormat> {
    if options.csv_timestamp_column.is_empty() {
        return None;
    }
    if options.csv_timestamp_format.is_empty() {
        section.error_at("csv_timestamp_column", "`csv_timestamp_column` needs `csv_timestamp_format`");
        return None;
    }
    let format = TimeFormat::new(&options.csv_timestamp_format, &options.csv_timezone);
    format.map_err(|reason| section.error_at("csv_timestamp_format", format!("`csv_timestamp_format`: {reason}"))).ok()
}

fn value(text: &str, wanted: Type) -> Option<Value<'_>> {
    match wanted {
        Type::Int => text.parse().ok().map(Value::Int),
        Type::Float => text.parse().ok().map(Value::Float),
        Type::Bool => boolean(text).map(Value::Bool),
        Type::Text => Some(Value::Text(text)),
        Type::Guess => {
            let number = text.parse().map(Value::Int).or_else(|_| text.parse().map(Value::Float));
            Some(number.ok().or_else(|| boolean(text).map(Value::Bool)).unwrap_or(Value::Text(text)))
        }
    }
}

impl Decoder for CsvDecoder {
    fn decode(&mut self, bytes: &[u8], out: &mut Collector) -> usize {
        if self.left != bytes.len() && self.options.csv_reset_mode == ResetMode::Always {
            self.reset();
        }
        self.left = 0;
        let mut reader = ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .trim(if self.options.csv_trim_space { Trim::All } else { Trim::None })
            .delimiter(self.options.csv_delimiter.as_bytes().first().copied().unwrap_or(b','))
            .comment(self.options.csv_comment.as_bytes().first().copied())
            .buffer_capacity(bytes.len().clamp(64, 64 * 1024))
            .from_reader(bytes);
        let mut record = ByteRecord::new();
        loop {
            let at = usize::try_from(reader.position().byte()).unwrap_or(bytes.len()).min(bytes.len());
            if out.is_full() && at < bytes.len() {
                self.left = bytes.len() - at;
                return at;
            }
            // Reading from memory can't fail, and rows of any length and any bytes are allowed.
            if !reader.read_byte_record(&mut record).unwrap_or(false) {
                return bytes.len();
            }
            self.row += 1;
            if self.skip > 0 {
                self.skip -= 1;
                continue;
            }
            if self.header > 0 {
                self.name_columns(&record);
                self.header -= 1;
                if self.header == 0 {
                    self.settle_columns();
                }
                continue;
            }
            if let Err(reason) = self.row(&record, out) {
                out.abandon();
                out.refuse(Refusal::Parse, format_args!("row {}: {reason}", self.row), record.as_slice());
            }
        }
    }

    fn reset(&mut self) {
        self.columns.clear();
        self.skip = self.options.csv_skip_rows;
        self.header = self.options.csv_header_row_count;
        self.row = 0;
        self.left = 0;
        if self.header == 0 {
            self.settle_columns();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use weir_plugin_api::{
        Position,
        options::{Diagnostics, Item, Node, Place, Table},
        testing,
    };

    use super::*;

    fn node(item: Item) -> Node {
        Node { place: Place::default(), item, secret: false }
    }

    fn text(text: &str) -> Item {
        Item::Text(text.into())
    }

    fn list(texts: &[&str]) -> Item {
        Item::Array(texts.iter().map(|t| node(text(t))).collect())
    }

    fn decoder(options: &[(&str, Item)]) -> Result<CsvDecoder, String> {
        let table = Table { entries: options.iter().map(|(k, i)| ((*k).to_owned(), Place::default(), node(i.clone()))).collect() };
        let diagnostics = Diagnostics::default();
        let decoder = CsvDecoder::read(&Section::new("test", &table, Place::default(), &diagnostics));
        decoder.ok_or_else(|| diagnostics.take().remove(0).message)
    }

    #[test]
    fn telegrafs_documented_example_reads_as_documented() {
        let mut decoder = decoder(&[
            ("csv_header_row_count", Item::Int(1)),
            ("csv_measurement_column", text("measurement")),
            ("csv_timestamp_column", text("time")),
            ("csv_timestamp_format", text("2006-01-02T15:04:05Z07:00")),
        ])
        .unwrap();
        let payload = b"measurement,cpu,time_user,time_system,time_idle,time\ncpu,cpu0,42,42,42,2018-09-13T13:03:28Z\n";
        assert_eq!(
            testing::decode(&mut decoder, payload).0,
            ["cpu cpu=\"cpu0\",time_user=42i,time_system=42i,time_idle=42i 1536843808000000000"]
        );
    }

    #[test]
    fn tags_types_skipped_rows_columns_and_values() {
        let mut decoder = decoder(&[
            ("csv_column_names", list(&["x", "room", "t", "ok", "n"])),
            ("csv_column_types", list(&["int", "string", "float", "bool", "string"])),
            ("csv_skip_rows", Item::Int(1)),
            ("csv_skip_columns", Item::Int(1)),
            ("csv_delimiter", text(";")),
            ("csv_comment", text("#")),
            ("csv_trim_space", Item::Bool(true)),
            ("csv_tag_columns", list(&["room"])),
            ("csv_skip_values", list(&["-"])),
        ])
        .unwrap();
        let payload = b"a title\n# a comment\n1; hall ;21;true;\"a;\"\"b\"\n2;attic;-;false;7\n3;attic;warm;true;7\n4;attic;-;-;-\n";
        let (lines, refused) = testing::decode(&mut decoder, payload);
        assert_eq!(lines, ["test,room=hall t=21,ok=true,n=\"a;\\\"b\" ?", "test,room=attic ok=false,n=\"7\" ?"]);
        assert_eq!(refused.len(), 2, "{refused:?}");
        assert!(refused[0].starts_with("row ") && refused[0].contains("\"t\""), "{refused:?}");
    }

    #[test]
    fn a_header_is_remembered_until_the_reset() {
        let mut decoder = decoder(&[("csv_header_row_count", Item::Int(2))]).unwrap();
        assert_eq!(testing::decode(&mut decoder, b"a,b\n_x,_y\n1,2.5\n").0, ["test a_x=1i,b_y=2.5 ?"]);
        assert_eq!(testing::decode(&mut decoder, b"3,on\n").0, ["test a_x=3i,b_y=\"on\" ?"]);
        decoder.reset();
        assert_eq!(testing::decode(&mut decoder, b"c\nd\n1\n").0, ["test cd=1i ?"]);
    }

    #[test]
    fn a_long_file_is_read_in_pieces_as_the_collector_fills() {
        let mut decoder = decoder(&[("csv_header_row_count", Item::Int(1)), ("csv_reset_mode", text("always"))]).unwrap();
        let payload = format!("a,b\n{}", (0..5000).map(|i| format!("{i},\"x\n{i}\"\r\n")).collect::<String>());
        let (lines, refused) = testing::decode(&mut decoder, payload.as_bytes());
        assert_eq!((lines.len(), refused.len()), (5000, 0));
        assert_eq!(lines[4999], "test a=4999i,b=\"x\\n4999\" ?");
    }

    #[test]
    fn options_that_can_not_work_are_refused() {
        let names = ("csv_column_names", list(&["a", "b"]));
        for (options, expected) in [
            (vec![], "needs names"),
            (vec![names.clone(), ("csv_column_types", list(&["int"]))], "1 types for 2 names"),
            (vec![names.clone(), ("csv_column_types", list(&["int", "double"]))], "expected int"),
            (vec![names.clone(), ("csv_delimiter", text("ab"))], "one ASCII character"),
            (vec![names.clone(), ("csv_timestamp_column", text("a"))], "needs `csv_timestamp_format`"),
        ] {
            let error = decoder(&options).err().unwrap_or_default();
            assert!(error.contains(expected), "{error}");
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_counted_and_never_panic(payload in proptest::collection::vec(prop_oneof![
            4 => proptest::sample::select(&b"a1,\"\r\n.-"[..]), 1 => any::<u8>()
        ], 0..120)) {
            let mut decoder = decoder(&[("csv_header_row_count", Item::Int(1)), ("csv_tag_columns", list(&["a"]))]).unwrap();
            let (mut collector, mut receiver) = testing::collector();
            prop_assert_eq!(decoder.decode(&payload, &mut collector), payload.len());
            let _ = collector.try_flush(Position::None);
            let points = receiver.take().len() as u64;
            prop_assert_eq!(receiver.counts.read, points + receiver.counts.not_recorded());
        }
    }
}
