//! What an output's task writes and what it tells the core, in the order in which both happen: the core is looked at before each write.

use std::sync::{Mutex, mpsc::Receiver};

use weir_plugin_api::{
    Series, Value,
    chunk::ChunkBuilder,
    plugin::{BoxFuture, PluginError},
};

use super::*;

/// What was written and told, in short.
#[derive(Clone)]
struct Watch(Arc<Mutex<(Receiver<Message>, Vec<String>)>>);

impl Watch {
    fn log(&self, what: Option<String>) -> Vec<String> {
        let mut inner = self.0.lock().expect("not poisoned");
        let (inbox, log) = &mut *inner;
        log.extend(inbox.try_iter().filter_map(shown));
        log.extend(what);
        log.clone()
    }

    /// What there is when something like this has been told.
    async fn until(&self, what: &str) -> Vec<String> {
        let told = async {
            loop {
                let log = self.log(None);
                if log.iter().any(|told| told.contains(what)) {
                    return log;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), told).await.unwrap_or_else(|_| panic!("no `{what}` in {:?}", self.log(None)))
    }
}

/// A message to the core; nothing of wants, which come at any time.
fn shown(message: Message) -> Option<String> {
    let at = |identity: Identity| format!("{}.{}", identity.record, identity.ordinal);
    Some(match message {
        Message::Event(Event::Want { .. }) => return None,
        Message::Event(Event::Delivered { upto, counts, token, .. }) => {
            let DeliveryCounts { delivered, rejected, collapsed, .. } = counts;
            format!("delivered {delivered} refused {rejected} collapsed {collapsed} upto {} token {token}", at(upto))
        }
        Message::Event(Event::Failing { .. }) => "failing".into(),
        Message::Event(Event::Held { held, .. }) => format!("held {held}"),
        Message::SetCursor { resume, .. } => format!("stands at {}", at(resume.results)),
        _ => "another message".into(),
    })
}

/// A destination that says what it is told to say, and takes everything after that.
struct Scripted {
    answers: VecDeque<Outcome>,
    stands: Option<Identity>,
    watch: Watch,
}

impl Output for Scripted {
    fn open<'a>(&'a mut self, resume: OutputResume) -> BoxFuture<'a, Result<OutputResume, PluginError>> {
        let results = self.stands.unwrap_or(resume.results);
        Box::pin(async move { Ok(OutputResume { results, ..resume }) })
    }

    fn write<'a>(&'a mut self, _: Lane, points: &'a Points) -> BoxFuture<'a, Outcome> {
        let ordinals: Vec<u32> = points.slices.iter().flat_map(|(chunk, range)| range.clone().map(|i| chunk.identity(i).ordinal)).collect();
        self.watch.log(Some(format!("write {ordinals:?}")));
        let answer = self.answers.pop_front().unwrap_or_else(Outcome::delivered);
        Box::pin(async move { answer })
    }

    fn retry_within(&self) -> Option<Duration> {
        Some(Duration::from_millis(1))
    }
}

/// Results 1.0 and up, of which the routes say whether the output wants them.
fn chunk(routes: &[u64]) -> Arc<Chunk> {
    let mut builder = ChunkBuilder::default();
    for (ordinal, route) in routes.iter().enumerate() {
        let series = Arc::new(Series::from_parts(if *route == 1 { "m" } else { "other" }, &[]));
        builder.point(Identity { record: 1, ordinal: ordinal as u32 }, &series, *route);
        builder.field(&"v".into(), 5, Value::Float(ordinal as f64));
    }
    Arc::new(builder.finish())
}

/// A task and who offers to it.
fn task(
    answers: Vec<Outcome>,
    stands: Option<Identity>,
    held: bool,
    transform: Option<Transform>,
) -> (Watch, mpsc::UnboundedSender<Offered>, Delivery) {
    let (core, inbox) = CoreHandle::new();
    let watch = Watch(Arc::new(Mutex::new((inbox, Vec::new()))));
    let output = Scripted { answers: answers.into(), stands, watch: watch.clone() };
    let options = DeliveryOptions {
        name: "scripted".into(),
        index: 0,
        batch: 4,
        flush_interval: Duration::from_millis(1),
        flush_jitter: Duration::ZERO,
        lanes: vec![Lane::Results],
        held,
        dead_letters: None,
    };
    let (offer, offers) = mpsc::unbounded_channel();
    let health = Arc::new(OutputHealth::default());
    health.held.store(held, Ordering::Relaxed);
    (watch, offer, Delivery::new(options, Box::new(output), transform, offers, core, health, 1))
}

/// Starts a task and offers it these points; `stands` is what the destination says of itself, `held` how it was left.
fn offered(
    routes: &[u64],
    answers: Vec<Outcome>,
    stands: Option<Identity>,
    held: bool,
) -> (Watch, (mpsc::UnboundedSender<Offered>, tokio::task::JoinHandle<()>)) {
    let (watch, offer, task) = task(answers, stands, held, None);
    let from = stands.map_or(0, |at| at.ordinal as usize + 1);
    assert!(offer.send(Offered { lane: Lane::Results, chunk: chunk(routes), from, age: 0 }).is_ok(), "it will run");
    // It ends with the test, when nobody offers any more.
    (watch, (offer, tokio::spawn(task.run(OutputResume::default(), Stop::default(), Stop::default()))))
}

#[tokio::test]
async fn nothing_is_settled_before_the_destination_has_taken_it() {
    let refused = Rejection { index: 1, status: "400".into(), reason: "no".into() };
    let again = Outcome::Retry { after: None, reason: "away".into() };
    let taken = Outcome::Delivered { rejected: vec![refused], collapsed: 2, token: 77 };
    let (watch, _task) = offered(&[1; 4], vec![again, taken], None, false);
    let settled = "delivered 3 refused 1 collapsed 2 upto 1.3 token 77";
    assert_eq!(watch.until("upto 1.3").await, ["write [0, 1, 2, 3]", "failing", "write [0, 1, 2, 3]", settled]);
}

#[tokio::test]
async fn halves_of_a_write_go_in_their_order_and_settle_their_own_points() {
    let (watch, _task) = offered(&[1; 4], vec![Outcome::TooLarge, Outcome::delivered(), Outcome::TooLarge], None, false);
    let [first, third, last] =
        [(2, "1.1"), (1, "1.2"), (1, "1.3")].map(|(n, upto)| format!("delivered {n} refused 0 collapsed 0 upto {upto} token 0"));
    let expected = ["write [0, 1, 2, 3]", "write [0, 1]", &first, "write [2, 3]", "write [2]", &third, "write [3]", &last];
    assert_eq!(watch.until("upto 1.3").await, expected);
}

#[tokio::test]
async fn a_point_too_large_by_itself_is_refused_and_not_delivered() {
    let (watch, _task) = offered(&[1; 4], vec![Outcome::TooLarge, Outcome::TooLarge, Outcome::TooLarge], None, false);
    let log = watch.until("upto 1.0").await;
    assert_eq!(log[3], "delivered 0 refused 1 collapsed 0 upto 1.0 token 0", "{log:?}");
}

#[tokio::test]
async fn points_for_others_are_passed_over_and_not_counted() {
    let (watch, _task) = offered(&[1, 2, 1, 2], Vec::new(), None, false);
    assert_eq!(watch.until("delivered").await, ["write [0, 2]", "delivered 2 refused 0 collapsed 0 upto 1.2 token 0"]);
}

#[tokio::test]
async fn where_a_destination_stands_is_told_before_anything_is_written() {
    let (watch, _task) = offered(&[1; 4], Vec::new(), Some(Identity { record: 1, ordinal: 1 }), false);
    let expected = ["stands at 1.1", "write [2, 3]", "delivered 2 refused 0 collapsed 0 upto 1.3 token 0"];
    assert_eq!(watch.until("delivered").await, expected);
}

#[tokio::test]
async fn a_hold_settles_nothing_and_one_from_before_ends_with_the_first_write() {
    let (watch, _task) = offered(&[1; 4], vec![Outcome::Hold { reason: "no bucket".into() }], None, false);
    assert_eq!(watch.until("held").await, ["write [0, 1, 2, 3]", "failing", "held true"]);
    let (watch, _task) = offered(&[1; 4], Vec::new(), None, true);
    let settled = "delivered 4 refused 0 collapsed 0 upto 1.3 token 0";
    assert_eq!(watch.until("delivered").await, ["write [0, 1, 2, 3]", "held false", settled]);
}

#[tokio::test]
async fn what_is_held_is_written_again_and_is_the_same() {
    let (watch, _offer, mut task) = task(vec![Outcome::Hold { reason: "no bucket".into() }], None, false, None);
    task.take(&Offered { lane: Lane::Results, chunk: chunk(&[1; 4]), from: 0, age: 0 });
    assert_eq!(task.write(Lane::Results).await, Some(HOLD));
    assert_eq!(task.ready(false), Some(Lane::Results));
    assert_eq!(task.write(Lane::Results).await, None);
    let settled = "delivered 4 refused 0 collapsed 0 upto 1.3 token 0";
    let expected = ["write [0, 1, 2, 3]", "failing", "held true", "write [0, 1, 2, 3]", "held false", settled];
    assert_eq!(watch.log(None), expected);
}

#[tokio::test]
async fn points_that_have_no_field_left_are_settled_without_a_write_or_with_the_next() {
    let (watch, _offer, mut task) = task(Vec::new(), None, false, Some(Transform::without_field("v")));
    task.take(&Offered { lane: Lane::Results, chunk: chunk(&[1, 2, 1]), from: 0, age: 0 });
    assert_eq!(watch.log(None), ["delivered 2 refused 0 collapsed 0 upto 1.2 token 0"]);
    assert_eq!(task.ready(true), None, "nothing is to be written");
}
