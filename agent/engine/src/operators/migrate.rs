//! From one configuration to another: what still means the same goes on, the rest starts anew above what was already sent.

use std::sync::Arc;

use super::{Operators, SnapshotError};
use crate::{series::SeriesTable, spec::EngineSpec};

impl Operators {
    /// The state under another configuration, with ids of `new`, and in words what that costs.
    ///
    /// # Errors
    /// When the state can't be read back: a defect.
    pub fn migrated(
        &self,
        table: &SeriesTable,
        spec: Arc<EngineSpec>,
        new: &mut SeriesTable,
    ) -> Result<(Self, Vec<String>), SnapshotError> {
        let mut bytes = Vec::new();
        self.snapshot(table, &mut bytes);
        Self::restore(spec, &bytes, new)
    }
}
