//! Stands between two serial lines, passes bytes on both ways, does to them what a bad line does, and listens to what the board says before
//! any of that: so a test knows what the board has dropped, however long a busy machine lets anybody wait.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{OptionalActions, tcgetattr, tcsetattr},
};
use weir_firmware_shim::frame::{FrameDecoder, Message};

/// What may happen to a piece of the stream, each once in so many pieces; 0 is never.
#[derive(Clone, Copy, Debug)]
pub struct Harm {
    drop: u64,
    flip: u64,
    double: u64,
    cut: u64,
    delay: u64,
}

impl Harm {
    /// A good line.
    pub const NONE: Self = Self { drop: 0, flip: 0, double: 0, cut: 0, delay: 0 };
    /// Everything that can happen.
    pub const EVERYTHING: Self = Self { drop: 25, flip: 25, double: 25, cut: 25, delay: 40 };
    /// That of a line of its own: the first is [`Harm::EVERYTHING`], of the others each kind comes up to three times as often, or seldom.
    pub fn of(line: u64) -> Self {
        let once_in = |kind: u64| 8 + (line * 7 + kind * 11) % 41;
        match line {
            0 => Self::EVERYTHING,
            _ => Self { drop: once_in(0), flip: once_in(1), double: once_in(2), cut: once_in(3), delay: 20 + once_in(4) },
        }
    }
    /// No line.
    pub const CUT: Self = Self { drop: 1, ..Self::NONE };
}

/// The longest a piece is held up.
const DELAY_MS_MAX: u64 = 800;

/// What the board has said of its queue.
#[derive(Clone, Copy, Debug, Default)]
pub struct Queue {
    /// Number of the last reading it has sent.
    pub sent: u64,
    /// Number of the last reading it holds no more: it was acknowledged, or dropped.
    pub gone: u64,
    /// How many it has dropped unacknowledged, by its last hello.
    pub dropped: u64,
}

struct Shared {
    harm: Harm,
    done: BTreeMap<&'static str, u64>,
    random: u64,
    ear: FrameDecoder,
    queue: Queue,
}

impl Shared {
    /// Takes in what the board says.
    fn hear(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.ear.push(*byte) != Some(Ok(())) {
                continue;
            }
            let queue = &mut self.queue;
            match self.ear.message() {
                Ok(Message::Hello(hello)) => {
                    queue.dropped = hello.dropped;
                    queue.gone = queue.gone.max(hello.oldest - 1);
                }
                Ok(Message::Data(data)) => {
                    queue.sent = queue.sent.max(data.last());
                    queue.gone = queue.gone.max(data.oldest - 1);
                }
                _ => {}
            }
        }
    }

    /// Whether it happens this time.
    fn happens(&mut self, what: &'static str, once_in: u64) -> bool {
        let happens = once_in > 0 && self.random().is_multiple_of(once_in);
        if happens {
            *self.done.entry(what).or_default() += 1;
        }
        happens
    }

    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.random >> 33
    }
}

/// The relay; the agent's end is a pseudo-terminal of its own.
pub struct Relay {
    shared: Arc<Mutex<Shared>>,
    port: PathBuf,
    /// Held open, or the line would hang up while the agent is dead.
    _near: File,
}

impl Relay {
    /// Begins to pass on what comes from `board`, unharmed; `seed` decides over harm.
    pub fn start(board: &Path, seed: u64) -> Self {
        let agent = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a pseudo-terminal");
        grantpt(&agent).and_then(|()| unlockpt(&agent)).expect("ours");
        let port = PathBuf::from(ptsname(&agent, Vec::new()).expect("its name").into_string().expect("ASCII"));
        let (near, board) = (raw(&port), raw(board));
        let agent = File::from(agent);
        let done = ["drop", "flip", "double", "cut", "delay"].map(|what| (what, 0)).into();
        let shared =
            Arc::new(Mutex::new(Shared { harm: Harm::NONE, done, random: seed, ear: FrameDecoder::default(), queue: Queue::default() }));
        let both = |file: &File| file.try_clone().expect("a second handle");
        pass(both(&board), both(&agent), &shared, true);
        pass(agent, board, &shared, false);
        Self { shared, port, _near: near }
    }

    /// Where the agent finds its end.
    pub fn port(&self) -> &Path {
        &self.port
    }

    /// From now on this happens.
    pub fn harm(&self, harm: Harm) {
        self.shared.lock().expect("not poisoned").harm = harm;
    }

    /// What the board has said so far, whether it was passed on or not.
    pub fn queue(&self) -> Queue {
        self.shared.lock().expect("not poisoned").queue
    }

    /// What has happened how often.
    pub fn harmed(&self) -> BTreeMap<&'static str, u64> {
        self.shared.lock().expect("not poisoned").done.clone()
    }
}

/// `O_NOCTTY` of Linux: the line's end is not to be the end of the tests, where they are run without a terminal.
const NOCTTY: i32 = 0o400;

fn raw(path: &Path) -> File {
    let line = OpenOptions::new().read(true).write(true).custom_flags(NOCTTY).open(path).expect("the line opens");
    let mut settings = tcgetattr(&line).expect("a terminal");
    settings.make_raw();
    tcsetattr(&line, OptionalActions::Now, &settings).expect("settings");
    line
}

/// One way; both threads end when their line does.
fn pass(mut from: File, mut to: File, shared: &Arc<Mutex<Shared>>, is_heard: bool) {
    let (sender, receiver) = mpsc::channel::<(Instant, Vec<u8>)>();
    let shared = Arc::clone(shared);
    std::thread::spawn(move || {
        let mut bytes = [0; 64];
        let mut clear_at = Instant::now();
        while let Ok(len @ 1..) = from.read(&mut bytes) {
            let mut shared = shared.lock().expect("not poisoned");
            let (harm, now) = (shared.harm, Instant::now());
            let mut piece = bytes[..len].to_vec();
            if is_heard {
                shared.hear(&piece);
            }
            if shared.happens("drop", harm.drop) {
                continue;
            }
            if shared.happens("flip", harm.flip) {
                let at = shared.random();
                piece[at as usize / 8 % len] ^= 1 << (at % 8);
            }
            if shared.happens("double", harm.double) {
                piece.extend_from_within(..);
            }
            if shared.happens("cut", harm.cut) {
                let keep = shared.random() as usize % piece.len();
                piece.truncate(keep);
            }
            if shared.happens("delay", harm.delay) {
                clear_at = now + Duration::from_millis(shared.random() % DELAY_MS_MAX);
            }
            // What comes behind a piece that is held up waits with it: a line has one order.
            if sender.send((clear_at.max(now), piece)).is_err() {
                return;
            }
        }
    });
    std::thread::spawn(move || {
        for (at, piece) in receiver {
            // This is the delay that is being simulated.
            while let Some(left) = at.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
                std::thread::park_timeout(left);
            }
            if to.write_all(&piece).is_err() {
                return;
            }
        }
    });
}
