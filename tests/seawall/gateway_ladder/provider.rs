//! A provider on loopback that a test holds, breaks and ends.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use seawall::sim::{Sim, http as sim_http};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};

use crate::process::{instant, serve};
use crate::served::{answer, message, read};

/// The model that is always there.
pub(crate) const SMALLER: &str = "claude-haiku-5-5";

/// What it does with requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Reads them and says nothing yet.
    Holding,
    /// All but those for [`SMALLER`].
    Overloaded,
    Healthy,
}

/// Answers as its state says, and remembers what it was asked.
#[derive(Debug)]
pub(crate) struct Provider {
    pub(crate) address: SocketAddr,
    pub(crate) state: watch::Sender<State>,
    asked: Arc<Mutex<Vec<Value>>>,
}

impl Provider {
    pub(crate) async fn start(state: State) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (state, told) = watch::channel(state);
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        serve(async move {
            loop {
                let (mut socket, _) = listener.accept().await?;
                let (mut told, seen) = (told.clone(), Arc::clone(&seen));
                serve(async move {
                    let Some(request) = read(&mut socket).await else {
                        return Ok(());
                    };
                    let body: Value = serde_json::from_slice(&request.body)?;
                    let is_smaller = body["model"] == SMALLER;
                    seen.lock().push(body);
                    let state = told.wait_for(|state| *state != State::Holding).await;
                    let state = state.map(|state| *state);
                    let words = match state {
                        Ok(State::Healthy) => message(),
                        Ok(State::Overloaded) if is_smaller => message(),
                        _ => overloaded(),
                    };
                    socket.write_all(words.as_bytes()).await?;
                    socket.shutdown().await
                });
            }
        });
        Self {
            address,
            state,
            asked,
        }
    }

    /// Bodies of all requests so far.
    pub(crate) fn asked(&self) -> Vec<Value> {
        self.asked.lock().clone()
    }
}

fn overloaded() -> String {
    let body = r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#;
    answer("529 Overloaded", "content-type: application/json\r\n", body)
}

/// The simulated provider, which can die.
pub(crate) struct Mortal {
    pub(crate) address: SocketAddr,
    stop: oneshot::Sender<()>,
    stopped: oneshot::Receiver<()>,
}

impl Mortal {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let sim = Sim::new(instant(Vec::new())).unwrap();
        let (stop, told) = oneshot::channel();
        let (ended, stopped) = oneshot::channel();
        let until = async { drop(told.await) };
        let serving = sim_http::serve(listener, sim, until);
        serve(async move {
            serving.await?;
            let unheard = |()| std::io::Error::other("nobody waits for its end");
            ended.send(()).map_err(unheard)
        });
        Self {
            address,
            stop,
            stopped,
        }
    }

    /// From here on nobody listens there.
    pub(crate) async fn die(self) {
        self.stop.send(()).unwrap();
        self.stopped.await.unwrap();
    }
}
