//! From one configuration to another: what still means the same goes on, the rest starts anew above what was already sent.

use std::sync::Arc;

use super::{
    Operators, SnapshotError,
    floors::Missed,
    window::{WindowOperator, ended::Newest},
};
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
        let (mut operators, dropped) = Self::restore(spec, &bytes, new)?;
        operators.start_windows_above(self);
        operators.number_alerts_on(self);
        if let Some(missed) = &self.missed {
            operators.note_missed();
            operators.missed = Some(Missed { floors: self.missed(), held: missed.held });
        }
        Ok((operators, dropped))
    }

    /// See [`crate::core::Core::forget_ended_groups`].
    #[doc(hidden)]
    pub fn forget_ended_groups(&mut self) {
        self.stage.windows.iter_mut().for_each(WindowOperator::forget_ended_groups);
    }

    /// Windows that start anew send nothing that would take the place of a result of those that are no more, and those that go on re-open
    /// nothing they have forgotten.
    fn start_windows_above(&mut self, old: &Self) {
        let same = |a: &WindowOperator, b: &WindowOperator| a.window().name == b.window().name && a.meaning() == b.meaning();
        let gone = old.stage.windows.iter().filter(|o| !self.stage.windows.iter().any(|n| same(o, n)));
        let (mut newest, mut common) = (Vec::<Newest>::new(), i64::MIN);
        for window in gone {
            newest.extend(window.newest(&old.stage.partitions));
            common = common.max(window.common());
        }
        for window in &mut self.stage.windows {
            match old.stage.windows.iter().find(|o| same(o, window)) {
                Some(before) => window.keep_closed(before, &old.stage.partitions),
                None => {
                    window.start_above(&newest);
                    window.start_all_above(common);
                }
            }
        }
    }

    fn number_alerts_on(&mut self, old: &Self) {
        let (before, now) = (old.alerts.known(), self.alerts.known());
        for (at, (name, meaning)) in now.iter().enumerate() {
            let changed = before.iter().position(|(n, m)| n == name && m != meaning);
            if let Some(old_at) = changed {
                self.alerts.number_on(at, &old.alerts, old_at);
            }
        }
    }
}
