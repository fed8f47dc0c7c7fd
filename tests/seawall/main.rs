//! Situations, one binary.

mod recordings_offline;
