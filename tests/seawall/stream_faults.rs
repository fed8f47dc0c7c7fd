//! Every way in which a stream can go wrong, in every delivery: an answer comes whole, or it says
//! that it did not.

pub(crate) mod case;
mod library;
pub(crate) mod reading;
pub(crate) mod tap;
mod waiting;
