//! Guards any async call.
pub mod policy;
pub mod verdict;
