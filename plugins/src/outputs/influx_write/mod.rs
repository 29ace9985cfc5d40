//! Writing to InfluxDB of any version: lines out, and every point's fate from what the server says.
//!
//! Shared by the two InfluxDB outputs. A write that is sent again changes nothing at an InfluxDB (same series and time, same
//! values), so whenever it is unclear which points were refused, parts of the write are sent again to find out.

mod blame;
mod lines;
mod verdict;

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;
use reqwest::{
    Client, Url,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
};
use weir_plugin_api::{
    Lane, PointView, Points,
    plugin::{BoxFuture, Outcome, Output, Rejection},
};

pub(crate) use self::lines::LineOptions;
use self::{
    lines::{LineWriter, Lines},
    verdict::Verdict,
};
use crate::net::http_client::{self, Authorization, ContentEncoding, shown};

/// Requests of one write after which a refused part is no longer taken apart but refused as a whole.
const REQUESTS_MAX: usize = 256;
/// Requests after which a server that has never taken a line, and refuses each without a readable word, is left alone.
const REFUSALS_MAX: usize = 16;
/// Addresses remembered for that many databases.
const DATABASES_MAX: usize = 256;

/// Which API is spoken.
#[derive(Clone, Debug)]
#[cfg_attr(not(all(feature = "output-influxdb", feature = "output-influxdb_v2")), allow(dead_code, reason = "one output, one API"))]
pub(crate) enum Api {
    /// `/write`, InfluxDB 1.x.
    V1 {
        /// Empty for the default one.
        retention_policy: String,
        /// Empty for the server's.
        consistency: String,
        /// Make a database that is missing.
        create: bool,
    },
    /// `/api/v2/write`.
    V2 {
        /// The organization, by name.
        organization: String,
    },
}

/// How a [`Writer`] is set up.
pub(crate) struct WriterSettings {
    /// Spoken to.
    pub client: Client,
    /// Tried in turn, from the one that answered last.
    pub urls: Vec<Url>,
    /// Sent with every request.
    pub authorization: Authorization,
    /// How.
    pub api: Api,
    /// Of bodies.
    pub encoding: ContentEncoding,
    /// Of points.
    pub lines: LineOptions,
    /// Database or bucket of points without the tag.
    pub database: String,
    /// Tag that names another.
    pub database_tag: Option<String>,
}

/// Writes points.
pub(crate) struct Writer {
    settings: WriterSettings,
    /// The address that answered last.
    current: usize,
    /// Write addresses by database.
    targets: HashMap<String, Vec<Url>>,
    /// Bytes of a body that the server took at most, as far as it said so.
    body_max: usize,
    /// Bytes of the last write: what the next will need.
    bytes: usize,
    /// The server has taken a line: what it refuses then, it refuses for the line's sake.
    taken: bool,
}

/// A write to one database while its parts are sent.
struct Job<'p> {
    database: &'p str,
    points: &'p Points,
    lines: Lines,
    parts: VecDeque<Vec<u32>>,
    rejected: BTreeMap<usize, Rejection>,
    /// Parts refused without a readable word that can't be taken apart any further, and that word.
    unclear: Vec<(Vec<u32>, String)>,
    requests: usize,
    created: bool,
    /// A part was put behind later ones: what was written over something may lie below it now.
    disordered: bool,
}

impl Job<'_> {
    fn reject(&mut self, lines: &[u32], status: &str, reason: &str) {
        for line in lines {
            let index = self.lines.point(*line as usize);
            self.rejected.insert(index, Rejection { index, status: status.to_owned(), reason: reason.to_owned() });
        }
    }

    /// Sends both halves again, unless that has been done often enough.
    fn split(&mut self, part: &[u32]) -> bool {
        if part.len() < 2 || self.requests >= REQUESTS_MAX {
            return false;
        }
        let (a, b) = part.split_at(part.len() / 2);
        self.put_off(a.to_vec());
        self.put_off(b.to_vec());
        true
    }

    /// Sends a part after all others, so that one that is refused again and again leaves requests for them.
    fn put_off(&mut self, part: Vec<u32>) {
        self.parts.push_back(part);
        self.disordered = true;
    }

    /// The part that is next; at the end once more what must lie above other lines.
    fn next(&mut self) -> Option<Vec<u32>> {
        self.parts.pop_front().or_else(|| {
            let disordered = std::mem::take(&mut self.disordered);
            let over: Vec<u32> = std::mem::take(&mut self.lines.over);
            let left: Vec<u32> = over.into_iter().filter(|line| !self.is_out(*line)).collect();
            (disordered && !left.is_empty()).then_some(left)
        })
    }

    /// Whether a line was refused, or is in a part nobody can say more of.
    fn is_out(&self, line: u32) -> bool {
        self.rejected.contains_key(&self.lines.point(line as usize)) || self.unclear.iter().any(|(part, _)| part.contains(&line))
    }
}

impl Writer {
    /// A writer that has not connected yet.
    pub(crate) fn new(settings: WriterSettings) -> Self {
        Self { settings, current: 0, targets: HashMap::new(), body_max: usize::MAX, bytes: 4096, taken: false }
    }

    /// Writes points, each to its database.
    async fn write_points(&mut self, points: &Points) -> Outcome {
        let count = points.len();
        let default = self.settings.database.clone();
        let mut groups: Vec<(&str, LineWriter<'_>)> = Vec::new();
        let tag = self.settings.database_tag.as_deref();
        for (index, point) in points.iter().enumerate() {
            let database = tag.and_then(|tag| point_tag(point, tag)).unwrap_or(&default);
            let at = groups.iter().position(|(name, _)| *name == database).unwrap_or_else(|| {
                let (points, bytes) = if tag.is_some() { (64, 4096) } else { (count, self.bytes) };
                groups.push((database, LineWriter::new(self.settings.lines, points, bytes)));
                groups.len() - 1
            });
            groups[at].1.push(index, point);
        }
        let (mut rejected, mut collapsed) = (BTreeMap::new(), 0);
        for (database, writer) in groups {
            let lines = writer.finish();
            self.bytes = lines.bytes.len() + lines.bytes.len() / 16;
            collapsed += lines.collapsed;
            match self.write_lines(database, points, lines).await {
                Ok(more) => rejected.extend(more),
                Err(outcome) => return outcome,
            }
        }
        Outcome::Delivered { rejected: rejected.into_values().collect(), collapsed, token: 0 }
    }

    /// Writes lines to one database; gives the rejected points, or what else the write came to.
    async fn write_lines(&mut self, database: &str, points: &Points, lines: Lines) -> Result<BTreeMap<usize, Rejection>, Outcome> {
        let parts = self.parts(&lines);
        let mut job = Job {
            database,
            points,
            lines,
            parts,
            rejected: BTreeMap::new(),
            unclear: Vec::new(),
            requests: 0,
            created: false,
            disordered: false,
        };
        while let Some(part) = job.next() {
            let body = job.lines.body(&part);
            let size = body.len();
            job.requests += 1;
            match self.send(database, body).await {
                Verdict::Plain(Outcome::Delivered { .. }) => self.taken = true,
                Verdict::Plain(Outcome::TooLarge) => self.too_large(&mut job, &part, size),
                Verdict::Plain(other) => return Err(other),
                Verdict::NoDatabase { reason } => self.create(&mut job, part, reason).await?,
                Verdict::Partial { named, dropped, reason } => {
                    self.taken = true;
                    let found = blame::lines(&named, &part, &job.lines);
                    if !found.is_empty() && found.len() >= dropped.unwrap_or(0) {
                        found.iter().for_each(|(line, why)| job.reject(&[*line], "partial", why));
                    } else {
                        self.dropped(&mut job, &part, dropped.unwrap_or(1), &reason);
                    }
                }
                Verdict::Refused { named, reason } => Self::refused(&mut job, &part, &named, &reason),
                Verdict::Unreadable { reason } if !self.taken && job.requests >= REFUSALS_MAX => return Err(stranger(&reason)),
                Verdict::Unreadable { reason } => {
                    if !job.split(&part) {
                        job.unclear.push((part, reason));
                    }
                }
            }
        }
        for (part, reason) in std::mem::take(&mut job.unclear) {
            if !self.taken {
                return Err(stranger(&reason));
            }
            job.reject(&part, "400", &reason);
        }
        Ok(job.rejected)
    }

    /// The lines in bodies the server is known to take.
    fn parts(&self, lines: &Lines) -> VecDeque<Vec<u32>> {
        let mut parts = VecDeque::from([Vec::with_capacity(lines.len())]);
        let mut size = 0;
        for line in 0..lines.len() {
            let more = lines.line(line).len();
            if size > 0 && size + more > self.body_max {
                parts.push_back(Vec::new());
                size = 0;
            }
            size += more;
            if let Some(part) = parts.back_mut() {
                part.push(line as u32);
            }
        }
        parts
    }

    /// Remembers half of the size that was too large, and sends halves. This ends by itself, whatever the budget.
    fn too_large(&mut self, job: &mut Job<'_>, part: &[u32], size: usize) {
        if part.len() == 1 {
            job.reject(part, "too_large", "larger than the server takes");
            return;
        }
        self.body_max = self.body_max.min((size / 2).max(1));
        let (a, b) = part.split_at(part.len() / 2);
        job.parts.push_front(b.to_vec());
        job.parts.push_front(a.to_vec());
    }

    /// `dropped` points of the part are not in, the others are.
    fn dropped(&self, job: &mut Job<'_>, part: &[u32], dropped: usize, reason: &str) {
        if dropped >= part.len() {
            job.reject(part, "partial", reason);
        } else if let Some(blamed) = blame::dropped(part, &job.lines, job.points, dropped, reason, self.settings.lines) {
            job.reject(&blamed, "partial", reason);
        } else if !job.split(part) {
            let unclear = format!("{reason} (these {dropped} or others of {} points)", part.len());
            job.reject(&part[..dropped], "partial", &unclear);
        }
    }

    /// Nothing of the part is in, because of the named lines.
    fn refused(job: &mut Job<'_>, part: &[u32], named: &[verdict::Named], reason: &str) {
        let found = blame::lines(named, part, &job.lines);
        if found.is_empty() {
            if !job.split(part) {
                job.reject(part, "400", reason);
            }
            return;
        }
        found.iter().for_each(|(line, why)| job.reject(&[*line], "400", why));
        let rest: Vec<u32> = part.iter().filter(|line| !found.iter().any(|(f, _)| f == *line)).copied().collect();
        if rest.is_empty() {
            return;
        }
        // A server that names one line at a time is met with smaller and smaller parts.
        if job.requests < 16 {
            job.put_off(rest);
        } else if !job.split(&rest) {
            if job.requests < 2 * REQUESTS_MAX {
                job.put_off(rest);
            } else {
                job.reject(&rest, "400", reason);
            }
        }
    }

    async fn create(&mut self, job: &mut Job<'_>, part: Vec<u32>, reason: String) -> Result<(), Outcome> {
        let Api::V1 { create: true, .. } = self.settings.api else { return Err(Outcome::Hold { reason }) };
        if job.created {
            return Err(Outcome::Hold { reason });
        }
        job.created = true;
        let mut url = self.settings.urls[self.current].clone();
        append_path(&mut url, "query");
        url.query_pairs_mut().append_pair("q", &format!("CREATE DATABASE \"{}\"", job.database.replace('\\', "\\\\").replace('"', "\\\"")));
        match http_client::send(self.settings.authorization.apply(self.settings.client.post(url))).await {
            Ok(answer) if answer.status == 200 && !answer.is_page() && !answer.body.contains("\"error\"") => {
                tracing::info!(database = job.database, "created the database");
                job.parts.push_front(part);
                Ok(())
            }
            Ok(answer) => Err(Outcome::Hold { reason: format!("{reason}; creating it: {}", answer.shown()) }),
            Err(reason) => Err(Outcome::Retry { after: None, reason }),
        }
    }

    /// Sends one body, to the address that answered last or to the next that does.
    async fn send(&mut self, database: &str, body: Bytes) -> Verdict {
        let body = http_client::encode(self.settings.encoding, body);
        let count = self.settings.urls.len();
        let mut failed: Option<Verdict> = None;
        for turn in 0..count {
            let at = (self.current + turn) % count;
            let url = self.target(database, at);
            let settings = &self.settings;
            let mut request = settings.client.post(url).header(CONTENT_TYPE, "text/plain; charset=utf-8").body(body.clone());
            request = settings.authorization.apply(request);
            if settings.encoding == ContentEncoding::Gzip {
                request = request.header(CONTENT_ENCODING, "gzip");
            }
            let verdict = match http_client::send(request).await {
                Ok(answer) => verdict::read(&answer),
                Err(reason) => Verdict::Plain(Outcome::Retry { after: None, reason }),
            };
            let Verdict::Plain(Outcome::Retry { after, reason }) = verdict else {
                self.current = at;
                return verdict;
            };
            let reason = format!("{}: {reason}", shown(&settings.urls[at]));
            failed.get_or_insert(Verdict::Plain(Outcome::Retry { after, reason }));
        }
        failed.unwrap_or_else(|| Verdict::Plain(Outcome::Hold { reason: "no address is configured".into() }))
    }

    fn target(&mut self, database: &str, at: usize) -> Url {
        if let Some(known) = self.targets.get(database) {
            return known[at].clone();
        }
        if self.targets.len() >= DATABASES_MAX {
            self.targets.clear();
        }
        let targets: Vec<Url> = self.settings.urls.iter().map(|url| write_url(url, &self.settings.api, database)).collect();
        let url = targets[at].clone();
        self.targets.insert(database.to_owned(), targets);
        url
    }
}

impl Output for Writer {
    fn write<'a>(&'a mut self, _lane: Lane, points: &'a Points) -> BoxFuture<'a, Outcome> {
        Box::pin(self.write_points(points))
    }
}

/// Whoever refuses everything without a readable word need not be an InfluxDB: nothing is given up on its account.
fn stranger(reason: &str) -> Outcome {
    Outcome::Hold { reason: format!("{reason}; nothing was ever taken here, so this may not be an InfluxDB") }
}

fn point_tag<'p>(point: PointView<'p>, tag: &str) -> Option<&'p str> {
    point.series().tag(tag)
}

fn append_path(url: &mut Url, path: &str) {
    let joined = format!("{}/{path}", url.path().trim_end_matches('/'));
    url.set_path(&joined);
}

fn write_url(base: &Url, api: &Api, database: &str) -> Url {
    let mut url = base.clone();
    match api {
        Api::V1 { retention_policy, consistency, .. } => {
            append_path(&mut url, "write");
            let mut query = url.query_pairs_mut();
            query.append_pair("db", database).append_pair("precision", "ns");
            if !retention_policy.is_empty() {
                query.append_pair("rp", retention_policy);
            }
            if !consistency.is_empty() {
                query.append_pair("consistency", consistency);
            }
        }
        Api::V2 { organization } => {
            append_path(&mut url, "api/v2/write");
            let mut query = url.query_pairs_mut();
            query.append_pair("bucket", database).append_pair("precision", "ns");
            if !organization.is_empty() {
                query.append_pair("org", organization);
            }
        }
    }
    url
}

#[cfg(all(test, feature = "output-influxdb", feature = "output-influxdb_v2"))]
mod hostile;
#[cfg(all(test, feature = "output-influxdb", feature = "output-influxdb_v2"))]
mod tests;
