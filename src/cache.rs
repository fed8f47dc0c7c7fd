//! Answers kept for a request that is asked again.
//!
//! A [`Fingerprint`] names a request and who may see its answer, [`admit`] says whether the cache has
//! a part in a call, an [`Entry`] is an answer that was whole and can be replayed in either form, and
//! the [`Store`] keeps entries in memory and, where it has a file, on disk. Nothing here sends or
//! reads a request.
//!
//! An entry is fresh for a time and may serve longer only where nobody else answers; both times are
//! the route's. Ages are by the wall clock, since they outlive the process.

pub mod admit;
mod canonical;
mod disk;
mod entry;
mod key;
mod replay;
mod store;

pub use admit::{Admission, Unfit};
pub use entry::{Entry, Recording, Replay};
pub use key::{CacheKey, Fingerprint, KeyParts, Scope};
pub use store::{Ages, Freshness, Hit, OpenError, Settings, Stats, Store};
