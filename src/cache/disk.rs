//! Entries in one SQLite file.
//!
//! One thread owns the connection, since SQLite blocks. Its queue is bounded: what does not fit is
//! left out and counted, and a read that is left out is a miss. Which keys the file has is known in
//! memory, so that only a likely hit waits for the disk. Several processes may share the file; each
//! knows its own entries and those that were there when it started.

use std::collections::HashSet;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use jiff::{SignedDuration, Timestamp};
use parking_lot::RwLock;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, params};
use tokio::task::spawn_blocking;

use super::entry::Entry;
use super::key::CacheKey;
use super::store::{Counters, OpenError, Settings, count};

/// Marks the file as ours: `SEAW`.
const APPLICATION: i64 = 0x5345_4157;

/// The format of the file. Keys of another form are found by nobody, and age out.
const FORMAT: i64 = 1;

/// Jobs that wait for the thread. A write takes some 50 µs, so this is a moment's worth.
const MOST_JOBS: usize = 256;

/// How long a job may wait for another process's.
const BUSY: Duration = Duration::from_secs(1);

/// How long a lookup waits for the disk. The provider would be asked meanwhile.
const READ: Duration = Duration::from_millis(250);

/// The log's size on disk after it was written back: as large as SQLite lets it grow by itself.
const LOG_BYTES: i64 = 4 << 20;

const SCHEMA: &str = "
    CREATE TABLE entries (
        key BLOB PRIMARY KEY NOT NULL,
        stored_at INTEGER NOT NULL, -- milliseconds since 1970
        headers TEXT NOT NULL,      -- JSON: pairs of name and value
        body BLOB NOT NULL
    );
    CREATE INDEX by_age ON entries (stored_at);
";

/// Part of the room that is cleared at once when there is none left.
const CLEARED: u64 = 16;

#[derive(Debug)]
pub(super) struct Disk {
    jobs: SyncSender<Job>,
    keys: Arc<RwLock<HashSet<CacheKey>>>,
    counters: Arc<Counters>,
    /// [`READ`].
    pub(super) patience: Duration,
}

enum Job {
    Read(CacheKey, SyncSender<Entry>),
    Write(CacheKey, Arc<Entry>),
    Flush(SyncSender<()>),
    Close(SyncSender<()>),
}

impl Disk {
    pub(super) fn open(
        (path, bound): &(PathBuf, u64),
        settings: &Settings,
        (now, counters): (Timestamp, &Arc<Counters>),
    ) -> Result<Self, OpenError> {
        let connection = open(path)?;
        let file = File {
            connection,
            keys: Arc::default(),
            counters: Arc::clone(counters),
            bound: *bound,
            largest: settings.largest,
        };
        let oldest = SignedDuration::try_from(settings.keep)
            .ok()
            .and_then(|keep| now.checked_sub(keep).ok());
        file.clean(oldest)
            .and_then(|()| file.learn_keys())
            .map_err(|error| unusable(path, &error))?;
        let keys = Arc::clone(&file.keys);
        let (jobs, queue) = sync_channel(MOST_JOBS);
        std::thread::Builder::new()
            .name("seawall-cache".to_owned())
            .spawn(move || file.run(queue))
            .map_err(|error| unusable(path, &error))?;
        Ok(Self {
            jobs,
            keys,
            counters: Arc::clone(counters),
            patience: READ,
        })
    }

    /// Waits on a thread that may block, for at most a quarter of a second of real time: there a clock
    /// that is paused waits too, which would run out before any disk has answered.
    pub(super) async fn read(&self, key: &CacheKey) -> Option<Entry> {
        if !self.keys.read().contains(key) {
            return None;
        }
        let (found, answer) = sync_channel(1);
        if !self.send(Job::Read(*key, found)) {
            return None;
        }
        let patience = self.patience;
        let read = spawn_blocking(move || answer.recv_timeout(patience)).await;
        let read = read.ok()?;
        if read == Err(RecvTimeoutError::Timeout) {
            count(&self.counters.disk_dropped);
        }
        read.ok()
    }

    pub(super) fn write(&self, key: CacheKey, entry: Arc<Entry>) {
        self.send(Job::Write(key, entry));
    }

    pub(super) async fn flush(&self) {
        self.wait_for(Job::Flush).await;
    }

    pub(super) async fn close(&self) {
        self.wait_for(Job::Close).await;
    }

    /// Waits until a job is done, and before that for room where the queue is full.
    async fn wait_for(&self, job: fn(SyncSender<()>) -> Job) {
        let jobs = self.jobs.clone();
        let waiting = spawn_blocking(move || {
            let (done, answer) = sync_channel(1);
            jobs.send(job(done)).ok()?;
            // Err: the job is done, and its sender dropped.
            answer.recv().ok()
        });
        // Err: the runtime ends, and nobody waits any more.
        drop(waiting.await);
    }

    pub(super) fn entries(&self) -> u64 {
        u64::try_from(self.keys.read().len()).unwrap_or(u64::MAX)
    }

    /// `false`: there is no room for it, which is counted.
    fn send(&self, job: Job) -> bool {
        let sent = self.jobs.try_send(job).is_ok();
        if !sent {
            count(&self.counters.disk_dropped);
        }
        sent
    }
}

/// The thread's side.
struct File {
    connection: Connection,
    keys: Arc<RwLock<HashSet<CacheKey>>>,
    counters: Arc<Counters>,
    bound: u64,
    largest: usize,
}

impl File {
    /// Works until it is closed, or the last sender has gone and its jobs are done.
    fn run(mut self, queue: Receiver<Job>) {
        while let Ok(job) = queue.recv() {
            let done = match job {
                Job::Read(key, found) => self.read(&key).map(|entry| {
                    if let Some(entry) = entry {
                        // Err: whoever asked has left.
                        drop(found.send(entry));
                    }
                }),
                Job::Write(key, entry) => self.write(key, &entry),
                Job::Flush(done) => {
                    drop(done);
                    Ok(())
                }
                Job::Close(done) => {
                    drop((self, queue));
                    drop(done);
                    return;
                }
            };
            if done.is_err() {
                count(&self.counters.disk_errors);
            }
        }
    }

    fn read(&self, key: &CacheKey) -> rusqlite::Result<Option<Entry>> {
        let mut query = self
            .connection
            .prepare_cached("SELECT stored_at, headers, body FROM entries WHERE key = ?1")?;
        let row: Option<(i64, String, Vec<u8>)> = query
            .query_row([&key.0], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()?;
        let Some((stored_at, headers, body)) = row else {
            // Another process has removed it.
            self.keys.write().remove(key);
            return Ok(None);
        };
        let entry = Timestamp::from_millisecond(stored_at).ok().and_then(|at| {
            let headers = read_headers(&headers)?;
            Entry::of_body(StatusCode::OK, &headers, &body, (at, self.largest)).ok()
        });
        if entry.is_none() {
            count(&self.counters.disk_errors);
            self.keys.write().remove(key);
        }
        Ok(entry)
    }

    fn write(&mut self, key: CacheKey, entry: &Entry) -> rusqlite::Result<()> {
        let bound = self.bound;
        let transaction = self.connection.transaction()?;
        transaction
            .prepare_cached(
                "INSERT OR REPLACE INTO entries (key, stored_at, headers, body) \
                 VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![
                key.0,
                entry.stored_at().as_millisecond(),
                write_headers(entry.headers()),
                &entry.body()[..],
            ])?;
        let removed = make_room(&transaction, bound)?;
        let used = used(&transaction)?;
        transaction.commit()?;
        let mut keys = self.keys.write();
        keys.insert(key);
        for key in &removed {
            keys.remove(key);
            count(&self.counters.disk_evictions);
        }
        self.counters.disk_bytes.store(used, Ordering::Relaxed);
        Ok(())
    }

    /// Removes what is too old, and what there is no more room for.
    fn clean(&self, oldest: Option<Timestamp>) -> rusqlite::Result<()> {
        if let Some(oldest) = oldest {
            let removed = self.connection.execute(
                "DELETE FROM entries WHERE stored_at < ?1",
                [oldest.as_millisecond()],
            )?;
            let removed = u64::try_from(removed).unwrap_or(u64::MAX);
            let evictions = &self.counters.disk_evictions;
            evictions.fetch_add(removed, Ordering::Relaxed);
        }
        for _ in make_room(&self.connection, self.bound)? {
            count(&self.counters.disk_evictions);
        }
        let used = used(&self.connection)?;
        self.counters.disk_bytes.store(used, Ordering::Relaxed);
        Ok(())
    }

    fn learn_keys(&self) -> rusqlite::Result<()> {
        let mut query = self.connection.prepare("SELECT key FROM entries")?;
        let keys = query.query_map([], |row| row.get::<_, [u8; 32]>(0))?;
        let mut known = self.keys.write();
        for key in keys {
            known.insert(CacheKey(key?));
        }
        Ok(())
    }
}

/// Removes the oldest entries where the file is over its bound, and some more, so that not every
/// write has to. Returns their keys.
fn make_room(connection: &Connection, bound: u64) -> rusqlite::Result<Vec<CacheKey>> {
    let mut removed = Vec::new();
    let mut most = bound;
    loop {
        if used(connection)? <= most {
            return Ok(removed);
        }
        most = bound - bound / CLEARED;
        let mut oldest = connection.prepare_cached(
            "DELETE FROM entries WHERE rowid IN \
             (SELECT rowid FROM entries ORDER BY stored_at LIMIT 16) RETURNING key",
        )?;
        let before = removed.len();
        for key in oldest.query_map([], |row| row.get::<_, [u8; 32]>(0))? {
            removed.push(CacheKey(key?));
        }
        if removed.len() == before {
            return Ok(removed);
        }
    }
}

/// Bytes of the file that hold something.
fn used(connection: &Connection) -> rusqlite::Result<u64> {
    let pages = pragma(connection, "page_count")? - pragma(connection, "freelist_count")?;
    let bytes = pages.saturating_mul(pragma(connection, "page_size")?);
    Ok(u64::try_from(bytes).unwrap_or(0))
}

fn pragma(connection: &Connection, name: &str) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, name, |row| row.get(0))
}

fn unusable(path: &Path, why: &dyn std::error::Error) -> OpenError {
    OpenError::Unusable {
        path: path.to_owned(),
        why: why.to_string(),
    }
}

/// Opens the file, or makes one where there is none. One that is not ours is not touched.
fn open(path: &Path) -> Result<Connection, OpenError> {
    create_private(path).map_err(|error| unusable(path, &error))?;
    // Without the flag that would read a path as a URI.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection =
        Connection::open_with_flags(path, flags).map_err(|error| unusable(path, &error))?;
    prepare(&mut connection, path).map_err(|problem| match problem {
        Problem::Open(error) => error,
        Problem::Sqlite(error) => match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => OpenError::Foreign {
                path: path.to_owned(),
            },
            Some(ErrorCode::DatabaseCorrupt) => corrupt(path, error.to_string()),
            _ => unusable(path, &error),
        },
    })?;
    Ok(connection)
}

fn corrupt(path: &Path, what: String) -> OpenError {
    OpenError::Corrupt {
        path: path.to_owned(),
        what,
    }
}

/// The answers in it are for its owner alone.
fn create_private(path: &Path) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

enum Problem {
    Sqlite(rusqlite::Error),
    Open(OpenError),
}

impl From<rusqlite::Error> for Problem {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

fn prepare(connection: &mut Connection, path: &Path) -> Result<(), Problem> {
    connection.busy_timeout(BUSY)?;
    let new = pragma(connection, "application_id")? == 0;
    if new {
        let tables: i64 =
            connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        if tables > 0 {
            let path = path.to_owned();
            return Err(Problem::Open(OpenError::Foreign { path }));
        }
        connection.pragma_update(None, "journal_mode", "WAL")?;
        let making =
            connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        // Another process may have made it meanwhile.
        if pragma(&making, "application_id")? == 0 {
            making.execute_batch(SCHEMA)?;
            making.pragma_update(None, "application_id", APPLICATION)?;
            making.pragma_update(None, "user_version", FORMAT)?;
        }
        making.commit()?;
    }
    if pragma(connection, "application_id")? != APPLICATION {
        let path = path.to_owned();
        return Err(Problem::Open(OpenError::Foreign { path }));
    }
    let found = pragma(connection, "user_version")?;
    if found != FORMAT {
        return Err(Problem::Open(OpenError::Version {
            path: path.to_owned(),
            found,
            known: FORMAT,
        }));
    }
    // What a crash may lose is an entry; the file stays whole.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "journal_size_limit", LOG_BYTES)?;
    let check: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if check == "ok" {
        Ok(())
    } else {
        Err(Problem::Open(corrupt(path, check)))
    }
}

fn write_headers(headers: &[(HeaderName, HeaderValue)]) -> String {
    let pairs: Vec<(&str, &str)> = headers
        .iter()
        .filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)))
        .collect();
    serde_json::json!(pairs).to_string()
}

fn read_headers(text: &str) -> Option<HeaderMap> {
    let pairs: Vec<(String, String)> = serde_json::from_str(text).ok()?;
    let read = |(name, value): (String, String)| {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        Some((name, HeaderValue::from_str(&value).ok()?))
    };
    pairs.into_iter().map(read).collect()
}
