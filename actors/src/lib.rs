//! Guards any async call.
pub mod policy;
pub mod supervisor;
pub mod verdict;
