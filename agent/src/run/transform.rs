//! An output's own names and modifiers, applied to chunks on their way out: once per series and once per field name of a chunk.

use std::{collections::HashMap, sync::Arc};

use weir_plugin_api::{Chunk, Series, filter::Filter};

use crate::config::types::ConfiguredOutput;

/// Series whose transformed form is remembered; past it the memory starts over.
const REMEMBERED_MAX: usize = 100_000;

/// What an output changes.
pub struct Transform {
    filter: Filter,
    name_override: Option<String>,
    name_prefix: String,
    name_suffix: String,
    known: HashMap<Arc<Series>, Arc<Series>>,
}

impl Transform {
    /// The changes of `output`, `None` when it has none.
    pub fn of(output: &ConfiguredOutput) -> Option<Self> {
        let changes = output.filter.changes_tags()
            || output.filter.changes_fields()
            || output.name_override.is_some()
            || !output.name_prefix.is_empty()
            || !output.name_suffix.is_empty();
        changes.then(|| Self {
            filter: output.filter.clone(),
            name_override: output.name_override.clone(),
            name_prefix: output.name_prefix.clone(),
            name_suffix: output.name_suffix.clone(),
            known: HashMap::new(),
        })
    }

    /// One that leaves out a field, for tests.
    #[cfg(test)]
    pub fn without_field(field: &str) -> Self {
        let options = weir_plugin_api::filter::FilterOptions {
            namepass: Vec::new(),
            namedrop: Vec::new(),
            fieldinclude: Vec::new(),
            fieldexclude: vec![field.into()],
            tagpass: Default::default(),
            tagdrop: Default::default(),
            taginclude: Vec::new(),
            tagexclude: Vec::new(),
        };
        Self {
            filter: Filter::new(&options),
            name_override: None,
            name_prefix: String::new(),
            name_suffix: String::new(),
            known: HashMap::new(),
        }
    }

    /// The chunk as the output shows it. Points keep their identities; one that has no field left keeps its place without cells, and
    /// is left out by [`has_fields`].
    pub fn apply(&mut self, chunk: &Chunk) -> Chunk {
        let series = chunk.series.iter().map(|s| self.series(s)).collect();
        let mut changed = Chunk { series, ..chunk.clone() };
        if self.filter.changes_fields() {
            let keep: Vec<bool> = chunk.fields.iter().map(|f| self.filter.keeps_field(f)).collect();
            changed.cells.clear();
            changed.starts.clear();
            for index in 0..chunk.len() {
                changed.starts.push(changed.cells.len() as u32);
                let start = chunk.starts[index] as usize;
                let end = chunk.starts.get(index + 1).map_or(chunk.cells.len(), |e| *e as usize);
                changed.cells.extend(chunk.cells[start..end].iter().filter(|c| keep[c.field as usize]));
            }
        }
        changed
    }

    fn series(&mut self, series: &Arc<Series>) -> Arc<Series> {
        if let Some(known) = self.known.get(series) {
            return Arc::clone(known);
        }
        let mut parts = series.to_parts();
        if let Some(name) = &self.name_override {
            name.clone_into(&mut parts.measurement);
        }
        parts.measurement = format!("{}{}{}", self.name_prefix, parts.measurement, self.name_suffix);
        self.filter.modify_tags(&mut parts);
        let changed = Arc::new(Series::new(&parts));
        if self.known.len() >= REMEMBERED_MAX {
            self.known.clear();
        }
        self.known.insert(Arc::clone(series), Arc::clone(&changed));
        changed
    }
}

/// Whether point `index` has any cell left.
pub fn has_fields(chunk: &Chunk, index: usize) -> bool {
    let end = chunk.starts.get(index + 1).map_or(chunk.cells.len(), |e| *e as usize);
    (chunk.starts[index] as usize) < end
}

#[cfg(test)]
mod tests {
    use weir_plugin_api::{Identity, Value, chunk::ChunkBuilder, filter::FilterOptions};

    use super::*;

    #[test]
    fn names_tags_and_fields_are_changed_and_identities_kept() {
        let mut builder = ChunkBuilder::default();
        let series = Arc::new(Series::from_parts("m", &[("host", "a"), ("device", "1")]));
        for ordinal in 0..2 {
            builder.point(Identity { record: 3, ordinal }, &series, 1);
            builder.field(&"x".into(), 5, Value::Float(1.0));
            if ordinal == 1 {
                builder.field(&"y".into(), 5, Value::Float(2.0));
            }
        }
        let options = FilterOptions {
            namepass: vec![],
            namedrop: vec![],
            fieldinclude: vec![],
            fieldexclude: vec!["x".into()],
            tagpass: Default::default(),
            tagdrop: Default::default(),
            taginclude: vec![],
            tagexclude: vec!["host".into()],
        };
        let mut transform = Transform {
            filter: Filter::new(&options),
            name_override: None,
            name_prefix: "p_".into(),
            name_suffix: String::new(),
            known: HashMap::new(),
        };
        let changed = transform.apply(&builder.finish());
        assert!(!has_fields(&changed, 0));
        assert_eq!(changed.point(1).series().line(), "p_m,device=1");
        assert_eq!(changed.point(1).fields().count(), 1);
        assert_eq!(changed.identity(1), Identity { record: 3, ordinal: 1 });
    }
}
