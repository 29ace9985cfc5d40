//! How everybody else talks to the core thread: a channel and a wake-up.

use std::{
    sync::{Arc, OnceLock, mpsc},
    time::Duration,
};

use tokio::sync::oneshot;
use weir_engine::core::{Event, Ledger};
use weir_plugin_api::plugin::OutputResume;

/// Longest wait for an answer of a caller that can't await.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// What the core thread is told.
pub enum Message {
    /// Something happened.
    Event(Event),
    /// The ledger, please.
    Ledger(Box<dyn FnOnce(Ledger) + Send>),
    /// A destination knows better where it stands.
    SetCursor {
        /// Index of the output.
        output: u16,
        /// Where it stands.
        resume: OutputResume,
    },
    /// Answer once every ring is empty and everything taken from them is durable.
    Settle(oneshot::Sender<()>),
    /// Every finite input has ended: close the windows once the rings are empty.
    Finish(oneshot::Sender<()>),
    /// Commit and checkpoint what the rings hold and everything before; answer when that is on the disk, or why it is not.
    Checkpoint(oneshot::Sender<Result<(), String>>),
    /// Everybody else is alive: tell the service manager, if the core is.
    Alive,
    /// Make a last checkpoint and end the thread.
    End,
    /// End the thread as it is: the journal holds what a last checkpoint would have held.
    GiveUp,
}

/// A handle to the core thread.
#[derive(Clone)]
pub struct CoreHandle {
    sender: mpsc::Sender<Message>,
    thread: Arc<OnceLock<std::thread::Thread>>,
}

impl CoreHandle {
    /// A handle and the thread's end of the channel; the thread makes itself known with [`CoreHandle::is_here`].
    pub fn new() -> (Self, mpsc::Receiver<Message>) {
        let (sender, receiver) = mpsc::channel();
        (Self { sender, thread: Arc::default() }, receiver)
    }

    /// Called on the core thread, once.
    pub fn is_here(&self) {
        // Set only here, and a thread runs once.
        let _ = self.thread.set(std::thread::current());
    }

    /// Wakes the core thread, if it sleeps.
    pub fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// Sends a message; `false` when the core has ended.
    pub fn send(&self, message: Message) -> bool {
        let sent = self.sender.send(message).is_ok();
        self.wake();
        sent
    }

    /// Sends an event.
    pub fn event(&self, event: Event) -> bool {
        self.send(Message::Event(event))
    }

    /// Says each `every` that whoever runs this is alive, until the core has ended.
    pub async fn keep_alive(self, every: Duration) {
        while self.send(Message::Alive) {
            tokio::time::sleep(every).await;
        }
    }

    /// Asks for the ledger; `None` when the core has ended.
    pub async fn ledger(&self) -> Option<Ledger> {
        let (reply, answer) = oneshot::channel();
        // Whoever asked may have gone meanwhile.
        self.send(Message::Ledger(Box::new(move |ledger| drop(reply.send(ledger)))));
        answer.await.ok()
    }

    /// The same for a caller that can't await; the core answers within a step.
    pub fn ledger_now(&self) -> Option<Ledger> {
        let (reply, answer) = mpsc::channel();
        self.send(Message::Ledger(Box::new(move |ledger| drop(reply.send(ledger)))));
        answer.recv_timeout(ANSWER_MAX).ok()
    }

    /// Sends a message made of a reply channel and waits for the reply; `false` when the core has ended.
    pub async fn ask(&self, message: impl FnOnce(oneshot::Sender<()>) -> Message) -> bool {
        let (reply, answer) = oneshot::channel();
        self.send(message(reply));
        answer.await.is_ok()
    }
}
