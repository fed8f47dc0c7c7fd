//! The gateway: HTTP in front of the client.
//!
//! [`server`] owns the sockets, [`admit`] decides who may come in and [`limits`] how much of it,
//! [`routes`] carries requests to the client and answers back, [`upload`] reads a body up to the limit,
//! [`reply`] writes what seawall itself answers, [`admin`] shows the inside.

pub(crate) mod admin;
pub(crate) mod admit;
pub(crate) mod clients;
pub(crate) mod limits;
pub(crate) mod logging;
pub(crate) mod metrics;
pub(crate) mod reply;
pub(crate) mod routes;
pub(crate) mod server;
pub(crate) mod stop;
pub(crate) mod upload;
