//! Which outputs want a point: decided once per series.

use std::sync::Arc;

use weir_plugin_api::{Series, SeriesParts};

use crate::{series::SeriesTable, spec::EngineSpec};

/// Bits of the outputs that want results and passed points of a series.
pub(super) fn results_route(spec: &EngineSpec, series: &Series) -> u64 {
    bits(spec, series, |output| output.results && !output.edge)
}

/// Bits of the outputs that want alerts of a series, actions not among them.
pub(super) fn alerts_route(spec: &EngineSpec, series: &Series) -> u64 {
    bits(spec, series, |output| output.alerts && !output.edge)
}

fn bits(spec: &EngineSpec, series: &Series, wants: impl Fn(&crate::spec::OutputSpec) -> bool) -> u64 {
    let mut route = 0;
    for (index, output) in spec.outputs.iter().enumerate().take(64) {
        if wants(output) && output.filter.selects(series.measurement(), series.tags()) {
            route |= 1 << index;
        }
    }
    route
}

/// Where raw points of one series go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RawRoute {
    /// When no window takes them.
    pub pass: u64,
    /// When they are late.
    pub late: u64,
}

/// Routes of raw points by series id.
#[derive(Clone, Debug, Default)]
pub(super) struct RawRoutes {
    routes: Vec<RawRoute>,
}

impl RawRoutes {
    /// The route of a series of the table.
    pub fn get(&mut self, id: u32, spec: &EngineSpec, table: &SeriesTable) -> RawRoute {
        while self.routes.len() <= id as usize {
            let series = &table.entries()[self.routes.len()].series;
            self.routes.push(Self::of(spec, series));
        }
        self.routes[id as usize]
    }

    /// The route of any series.
    pub fn of(spec: &EngineSpec, series: &Series) -> RawRoute {
        RawRoute { pass: results_route(spec, series), late: bits(spec, series, |output| output.late && !output.edge) }
    }
}

/// Tag of everything whose time comes from a clock nobody has set.
pub(super) const CLOCK_TAG: (&str, &str) = ("clock", "provisional");

/// The series with the tag that says its times are provisional.
pub(super) fn provisional(series: &Series) -> Arc<Series> {
    let mut parts: SeriesParts = series.to_parts();
    parts.tag(CLOCK_TAG.0, CLOCK_TAG.1);
    Arc::new(Series::new(&parts))
}
