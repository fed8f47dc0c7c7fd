//! Steps of agents: the user's own code between model calls, supervised.

use seawall_actors::error::StartError;
pub use seawall_actors::step::{FINAL, StepError, StepHandle, StepRun, StepSettings, StepState};
use seawall_actors::verdict::Verdict;

use super::Seawall;
use crate::error::Error;

/// An error that can end a run of a step.
///
/// The error of a model call says by itself whether it may pass. An error type of your own says it
/// for the model error that it wraps, and calls the rest final or not:
///
/// ```
/// use seawall::client::step::{FINAL, StepFailure};
/// use seawall::error::Error;
/// use seawall_actors::verdict::Verdict;
///
/// enum Trouble {
///     Model(Error),
///     NoSuchTool(String),
/// }
///
/// impl StepFailure for Trouble {
///     fn verdict(&self) -> Verdict {
///         match self {
///             Self::Model(error) => error.verdict(),
///             Self::NoSuchTool(_) => FINAL,
///         }
///     }
/// }
/// ```
pub trait StepFailure {
    /// Whether the step may be run again, and not before when. [`FINAL`] ends it.
    fn verdict(&self) -> Verdict;
}

impl StepFailure for Error {
    fn verdict(&self) -> Verdict {
        Self::verdict(self)
    }
}

/// The first model error among the causes decides; without one it is final.
impl StepFailure for Box<dyn std::error::Error + Send + Sync> {
    fn verdict(&self) -> Verdict {
        let first: &(dyn std::error::Error + 'static) = self.as_ref();
        let mut causes = std::iter::successors(Some(first), |error| error.source());
        causes
            .find_map(<dyn std::error::Error>::downcast_ref::<Error>)
            .map_or(FINAL, Error::verdict)
    }
}

impl Seawall {
    /// Starts one step of an agent. `work` gets a client to make its calls with; it is run again
    /// after an error that may pass ([`StepFailure`]), within its retry budget, and after a panic,
    /// a hang or the loss of its actor, within its restart budget, until the step's deadline. No
    /// other step notices.
    ///
    /// A call that fails has had retries of its own. What `work` did before it, it does again.
    ///
    /// # Errors
    ///
    /// [`StartError`] when the client has stopped.
    pub async fn spawn_step<T, E, F, Fut>(
        &self,
        settings: StepSettings,
        work: F,
    ) -> Result<StepHandle<T, E>, StartError>
    where
        F: Fn(Self, StepRun) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: StepFailure + Send + 'static,
    {
        let client = self.clone();
        self.system()
            .spawn_judged_step(settings, E::verdict, move |run| work(client.clone(), run))
            .await
    }
}
