//! Situations, one binary.

// Always true here; clippy's exemptions for tests look for it above plain functions.
#[cfg(test)]
mod recordings_offline;
