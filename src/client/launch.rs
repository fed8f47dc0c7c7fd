//! Batches of runs that don't start together.

use futures_util::Stream;
use seawall_actors::launch;
pub use seawall_actors::launch::{Launches, Spread, launch_each};

use super::Seawall;

impl Seawall {
    /// Starts a run for each of `items`, spread as `spread` says, and yields each answer with its
    /// item's number as it comes. `run` gets a client to make its calls with.
    ///
    /// The runs live in the stream: it drives all that have started whenever it is polled, and
    /// dropping it drops them and starts no more. Runs of more than a few calls are best steps of
    /// their own ([`Seawall::spawn_step`]) that `run` joins.
    ///
    /// Where the number of runs is not known, use [`launch_each`].
    ///
    /// ```
    /// # use seawall::client::Seawall;
    /// # async fn answer(_: Seawall, _: &str) {}
    /// # async fn example(seawall: Seawall) -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    ///
    /// use futures_util::StreamExt;
    /// use seawall::client::launch::Spread;
    ///
    /// let questions = ["Why?", "How?", "When?"];
    /// let spread = Spread::over(Duration::from_secs(60))?;
    /// let answers = seawall.launch_spread(questions, spread, answer);
    /// let answers: Vec<_> = answers.collect().await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn launch_spread<I, F, R>(
        &self,
        items: I,
        spread: Spread,
        mut run: F,
    ) -> impl Stream<Item = (usize, R::Output)> + use<I, F, R>
    where
        I: IntoIterator<IntoIter: ExactSizeIterator>,
        F: FnMut(Self, I::Item) -> R,
        R: Future,
    {
        let seawall = self.clone();
        launch::launch_spread(items, spread, move |item| run(seawall.clone(), item))
    }
}
