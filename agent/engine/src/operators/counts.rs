//! Counters of the engine and of its operators, as the ledger has them.

/// Counters of one window or alert: `in = applied + late + late_clock_step + future + overflow_groups + overflow_panes + conflict_type +
/// undefined`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OperatorCounts {
    /// Points that reached it after its filters.
    pub r#in: u64,
    /// Used.
    pub applied: u64,
    /// Pane already freed, or below the floor; at an alert: older than the point before.
    pub late: u64,
    /// Late because the clock stepped back.
    pub late_clock_step: u64,
    /// Event time too far ahead.
    pub future: u64,
    /// Table of groups full.
    pub overflow_groups: u64,
    /// Too many panes in its group.
    pub overflow_panes: u64,
    /// Text where a number was before, or the other way round, in every field it takes.
    pub conflict_type: u64,
    /// A field the condition needs is missing.
    pub undefined: u64,
    /// Results emitted for the first time.
    pub first: u64,
    /// Emitted again with more points.
    pub revision: u64,
    /// Emitted while still open.
    pub early: u64,
    /// Alert transitions.
    pub transitions: u64,
    /// Ended groups of which only the common floor remembers anything: there were too many.
    pub forgotten: u64,
}

impl OperatorCounts {
    /// Names and values in a fixed order, for encoding, status and metrics.
    pub fn fields(&self) -> [(&'static str, u64); 14] {
        [
            ("in", self.r#in),
            ("applied", self.applied),
            ("late", self.late),
            ("late_clock_step", self.late_clock_step),
            ("future", self.future),
            ("overflow_groups", self.overflow_groups),
            ("overflow_panes", self.overflow_panes),
            ("conflict_type", self.conflict_type),
            ("undefined", self.undefined),
            ("first", self.first),
            ("revision", self.revision),
            ("early", self.early),
            ("transitions", self.transitions),
            ("forgotten", self.forgotten),
        ]
    }

    /// The counts of `values` in the order of [`OperatorCounts::fields`].
    pub fn from_values(values: [u64; 14]) -> Self {
        let [
            r#in,
            applied,
            late,
            late_clock_step,
            future,
            overflow_groups,
            overflow_panes,
            conflict_type,
            undefined,
            first,
            revision,
            early,
            transitions,
            forgotten,
        ] = values;
        Self {
            r#in,
            applied,
            late,
            late_clock_step,
            future,
            overflow_groups,
            overflow_panes,
            conflict_type,
            undefined,
            first,
            revision,
            early,
            transitions,
            forgotten,
        }
    }

    /// What of `in` has no reason: anything but zero is a bug.
    pub fn residue(&self) -> i128 {
        let accounted = [
            self.applied,
            self.late,
            self.late_clock_step,
            self.future,
            self.overflow_groups,
            self.overflow_panes,
            self.conflict_type,
            self.undefined,
        ];
        i128::from(self.r#in) - accounted.into_iter().map(i128::from).sum::<i128>()
    }
}

/// Counters of the engine as a whole: `dispatched = passed + taken + late + rejected_future + rejected_type`; what was recorded is `dispatched + held`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineCounts {
    /// Points handed to the operators.
    pub dispatched: u64,
    /// Points waiting for the clock now.
    pub held: u64,
    /// Raw points no window took, passed on.
    pub passed: u64,
    /// Raw points every window that took them used up.
    pub taken: u64,
    /// Raw points that came too late for the windows that would have taken them.
    pub late: u64,
    /// Points refused because their event time lies too far ahead.
    pub rejected_future: u64,
    /// Points of the late stream, late at one window at least or refused for their time: not a fate of its own.
    pub late_stream: u64,
    /// Points whose event time could not be compared with the wall clock, as nobody had set it: not a fate of its own.
    pub future_unchecked: u64,
    /// Points that flowed with the tag `clock=provisional`: not a fate of its own.
    pub provisional: u64,
    /// Points refused because no field of theirs has its first type.
    pub rejected_type: u64,
}

impl EngineCounts {
    /// Names and values in a fixed order, for encoding, status and metrics.
    pub fn fields(&self) -> [(&'static str, u64); 10] {
        [
            ("dispatched", self.dispatched),
            ("held", self.held),
            ("passed", self.passed),
            ("taken", self.taken),
            ("late", self.late),
            ("rejected_future", self.rejected_future),
            ("late_stream", self.late_stream),
            ("future_unchecked", self.future_unchecked),
            ("provisional", self.provisional),
            ("rejected_type", self.rejected_type),
        ]
    }

    /// The counts of `values` in the order of [`EngineCounts::fields`].
    pub fn from_values(values: [u64; 10]) -> Self {
        let [dispatched, held, passed, taken, late, rejected_future, late_stream, future_unchecked, provisional, rejected_type] = values;
        Self { dispatched, held, passed, taken, late, rejected_future, late_stream, future_unchecked, provisional, rejected_type }
    }

    /// What of `dispatched` has no fate: anything but zero is a bug.
    pub fn residue(&self) -> i128 {
        let fates = [self.passed, self.taken, self.late, self.rejected_future, self.rejected_type];
        i128::from(self.dispatched) - fates.into_iter().map(i128::from).sum::<i128>()
    }
}
