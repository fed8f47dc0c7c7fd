#![doc = include_str!("../README.md")]

pub mod cache;
pub mod client;
pub mod error;
pub mod message;

pub mod config;
pub mod delivery;
pub mod profile;

pub mod capability;
pub mod estimate;
pub mod prices;
pub mod provider;
mod telemetry;
pub mod transport;
pub mod verdict;
pub mod wall_clock;

pub mod sim;

#[cfg(feature = "gateway")]
pub mod drill;

pub mod duration;
pub mod size;
