//! A chunk as the outbox keeps it: everything by name, so that it can be read under another configuration.

use std::sync::Arc;

use weir_plugin_api::{Chunk, Identity, Series, SeriesParts};

use super::{
    bytes::{Damaged, Reader, put_bytes, put_u64},
    cells::{self, CellEncoder},
};

/// Version of the format.
const VERSION: u8 = 1;

/// Appends a series: measurement, then its tags.
pub fn put_series(out: &mut Vec<u8>, series: &Series) {
    put_bytes(out, series.measurement().as_bytes());
    put_u64(out, series.tags().len() as u64);
    for (key, value) in series.tags() {
        put_bytes(out, key.as_bytes());
        put_bytes(out, value.as_bytes());
    }
}

/// Reads a series.
///
/// # Errors
/// [`Damaged`].
pub fn series(reader: &mut Reader<'_>) -> Result<Arc<Series>, Damaged> {
    let mut parts = SeriesParts { measurement: reader.text()?.to_owned(), tags: Vec::new() };
    for _ in 0..reader.count()? {
        parts.tags.push((reader.text()?.to_owned(), reader.text()?.to_owned()));
    }
    Ok(Arc::new(Series::new(&parts)))
}

/// Appends a chunk. Routes are written as indexes into `outputs`, whose names stand in front.
pub fn encode(chunk: &Chunk, outputs: &[&str], encoder: &mut CellEncoder, out: &mut Vec<u8>) {
    out.push(VERSION);
    put_u64(out, outputs.len() as u64);
    outputs.iter().for_each(|name| put_bytes(out, name.as_bytes()));
    put_u64(out, chunk.series.len() as u64);
    for (series, route) in chunk.series.iter().zip(&chunk.routes) {
        put_series(out, series);
        put_u64(out, *route);
    }
    put_u64(out, chunk.fields.len() as u64);
    chunk.fields.iter().for_each(|name| put_bytes(out, name.as_bytes()));
    put_u64(out, chunk.identities.len() as u64);
    let mut last = 0;
    for (start, identity) in &chunk.identities {
        put_u64(out, u64::from(*start));
        put_u64(out, identity.record.wrapping_sub(last));
        put_u64(out, u64::from(identity.ordinal));
        last = identity.record;
    }
    encoder.encode(&chunk.cells, &chunk.text, |s| s, |f| f, out);
}

/// Names of the outputs that a chunk was encoded with.
///
/// # Errors
/// [`Damaged`].
pub fn output_names(bytes: &[u8]) -> Result<Vec<&str>, Damaged> {
    let mut reader = Reader::new(bytes);
    if reader.u8()? != VERSION {
        return Err(Damaged("an unknown version"));
    }
    (0..reader.count()?).map(|_| reader.text()).collect()
}

/// Reads a chunk; routes are translated to the `outputs` of today, those that are gone lose their bit.
///
/// # Errors
/// [`Damaged`].
pub fn decode(bytes: &[u8], outputs: &[&str]) -> Result<Chunk, Damaged> {
    let mut reader = Reader::new(bytes);
    if reader.u8()? != VERSION {
        return Err(Damaged("an unknown version"));
    }
    let mut bits = Vec::new();
    for _ in 0..reader.count()? {
        let name = reader.text()?;
        let index = outputs.iter().take(64).position(|o| *o == name);
        bits.push(index.map_or(0, |index| 1u64 << index));
    }
    let mut chunk = Chunk::default();
    for _ in 0..reader.count()? {
        chunk.series.push(series(&mut reader)?);
        let route = reader.u64()?;
        chunk.routes.push(bits.iter().enumerate().filter(|(i, _)| *i < 64 && route >> i & 1 == 1).fold(0, |all, (_, bit)| all | bit));
    }
    for _ in 0..reader.count()? {
        chunk.fields.push(reader.text()?.into());
    }
    let mut last = 0u64;
    for _ in 0..reader.count()? {
        let start = reader.narrow()?;
        last = last.wrapping_add(reader.u64()?);
        chunk.identities.push((start, Identity { record: last, ordinal: reader.narrow()? }));
    }
    let (series_count, field_count) = (chunk.series.len(), chunk.fields.len());
    let points = cells::decode(
        &mut reader,
        |s| ((s as usize) < series_count).then_some(s),
        |f| (usize::from(f) < field_count).then_some(f),
        &mut chunk.cells,
        &mut chunk.text,
    )?;
    chunk.starts = chunk.cells.iter().enumerate().filter(|(_, c)| c.starts_point()).map(|(i, _)| i as u32).collect();
    if chunk.starts.len() != points as usize || !identities_fit(&chunk.identities, points) {
        return Err(Damaged("identities do not fit the points"));
    }
    Ok(chunk)
}

/// Every point has an identity, and those of the points between two entries go on from the first: each range must be one that can be counted
/// through and end before the next begins.
fn identities_fit(identities: &[(u32, Identity)], points: u32) -> bool {
    let mut next = 0;
    for (index, (start, identity)) in identities.iter().enumerate() {
        let following = identities.get(index + 1);
        let end = following.map_or(points, |(start, _)| *start);
        if *start != next || end <= *start {
            return false;
        }
        let Some(last) = identity.ordinal.checked_add(end - start - 1) else { return false };
        if following.is_some_and(|(_, after)| *after <= Identity { ordinal: last, ..*identity }) {
            return false;
        }
        next = end;
    }
    next == points
}
