//! One result, once: the channels that carry it for pools that do not.

use std::sync::mpsc;

/// A channel for one message.
pub trait Reply: Sync + Send + 'static {
    type Sender: Send + 'static;
    type Receiver: Send;

    fn pair() -> (Self::Sender, Self::Receiver);
    fn send(sender: Self::Sender, bytes: Vec<u8>);
    fn recv(receiver: Self::Receiver) -> Vec<u8>;
    /// `Err` gives the receiver back while there is no message.
    fn try_recv(receiver: Self::Receiver) -> Result<Vec<u8>, Self::Receiver>;
}

const LOST: &str = "every job answers once";

/// The `oneshot` crate: one allocation per message.
pub struct OneShot;

impl Reply for OneShot {
    type Sender = oneshot::Sender<Vec<u8>>;
    type Receiver = oneshot::Receiver<Vec<u8>>;

    fn pair() -> (Self::Sender, Self::Receiver) {
        oneshot::channel()
    }

    fn send(sender: Self::Sender, bytes: Vec<u8>) {
        sender.send(bytes).expect(LOST);
    }

    fn recv(receiver: Self::Receiver) -> Vec<u8> {
        receiver.recv().expect(LOST)
    }

    fn try_recv(receiver: Self::Receiver) -> Result<Vec<u8>, Self::Receiver> {
        receiver.try_recv().map_err(|_| receiver)
    }
}

/// `crossbeam_channel::bounded(1)`.
pub struct Bounded;

impl Reply for Bounded {
    type Sender = crossbeam_channel::Sender<Vec<u8>>;
    type Receiver = crossbeam_channel::Receiver<Vec<u8>>;

    fn pair() -> (Self::Sender, Self::Receiver) {
        crossbeam_channel::bounded(1)
    }

    fn send(sender: Self::Sender, bytes: Vec<u8>) {
        sender.send(bytes).expect(LOST);
    }

    fn recv(receiver: Self::Receiver) -> Vec<u8> {
        receiver.recv().expect(LOST)
    }

    fn try_recv(receiver: Self::Receiver) -> Result<Vec<u8>, Self::Receiver> {
        receiver.try_recv().map_err(|_| receiver)
    }
}

/// `std::sync::mpsc::channel()`.
pub struct Unbounded;

impl Reply for Unbounded {
    type Sender = mpsc::Sender<Vec<u8>>;
    type Receiver = mpsc::Receiver<Vec<u8>>;

    fn pair() -> (Self::Sender, Self::Receiver) {
        mpsc::channel()
    }

    fn send(sender: Self::Sender, bytes: Vec<u8>) {
        sender.send(bytes).expect(LOST);
    }

    fn recv(receiver: Self::Receiver) -> Vec<u8> {
        receiver.recv().expect(LOST)
    }

    fn try_recv(receiver: Self::Receiver) -> Result<Vec<u8>, Self::Receiver> {
        receiver.try_recv().map_err(|_| receiver)
    }
}
