//! Where entries are kept: in memory, bounded by bytes, and on disk where there is a file.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use jiff::{SignedDuration, Timestamp};
use moka::notification::RemovalCause;
use moka::ops::compute::Op;
use moka::sync::Cache;

use super::disk::Disk;
use super::entry::{Entry, Recording, Room};
use super::key::CacheKey;

/// A wall clock may be set back by this much; an entry from further ahead is not believed.
const CLOCK_SLACK: SignedDuration = SignedDuration::from_secs(60);

/// No entry is kept for longer; the map takes no more than a thousand years.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Part of the memory for entries that the map has not counted yet, since counting at every one costs
/// more than the entry.
const UNCOUNTED: u64 = 32;

/// How a store is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "plain settings")]
pub struct Settings {
    /// Most memory for entries, in bytes, their keys and the map's own part included.
    pub memory: u64,
    /// How long an entry is kept at most: the longest of all routes' [`Ages`].
    pub keep: Duration,
    /// Most bytes of a message that is kept.
    pub largest: usize,
    /// The file that survives restarts, and most bytes in it; its write-ahead log may add 4 MiB.
    pub disk: Option<(PathBuf, u64)>,
}

/// How old an entry may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "plain settings")]
pub struct Ages {
    /// Up to this age it may serve at any time.
    pub ttl: Duration,
    /// Up to this age it may serve where nobody else answers; where it is below `ttl`, so is `ttl`.
    pub stale_if_error: Duration,
}

impl Ages {
    /// The same for a lookup that only takes what is fresh.
    #[must_use]
    pub const fn fresh_only(self) -> Self {
        Self {
            stale_if_error: Duration::ZERO,
            ..self
        }
    }

    /// What an entry of this age may serve as.
    fn freshness(self, age: Duration) -> Option<Freshness> {
        if age <= self.ttl {
            Some(Freshness::Fresh)
        } else {
            (age <= self.stale_if_error).then_some(Freshness::Stale)
        }
    }
}

/// Whether an entry is younger than the route's time to live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "the two that there are")]
pub enum Freshness {
    /// It is.
    Fresh,
    /// It is older, and serves since nobody else answers.
    Stale,
}

/// An entry that was found.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Hit {
    /// The answer.
    pub entry: Arc<Entry>,
    /// How long it has been kept.
    pub age: Duration,
    /// Whether that is within the time to live.
    pub freshness: Freshness,
}

impl Hit {
    /// What `x-seawall-cache` says of it; the age is in seconds.
    #[must_use]
    pub fn badge(&self) -> String {
        let stale = match self.freshness {
            Freshness::Fresh => "",
            Freshness::Stale => "; stale",
        };
        format!("hit; age={}{stale}", self.age.as_secs())
    }
}

/// A store that could not be opened. Its file is left as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The file cannot be opened or created.
    #[error("the cache file {} cannot be opened: {why}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The file is something else.
    #[error(
        "{} is not a seawall cache file: name another file, or move it away",
        path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The file is damaged.
    #[error(
        "the cache file {} is damaged ({what}): move it away or delete it, it is made anew",
        path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What SQLite found.
        what: String,
    },
    /// The file is of another version of seawall.
    #[error(
        "the cache file {} has format {found}, this version reads {known}: move it away or delete it, it is made anew",
        path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// The format that it has.
        found: i64,
        /// The format that is known here.
        known: i64,
    },
}

/// What a store holds and has done since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Entries in memory.
    pub entries: u64,
    /// What they take, in bytes.
    pub bytes: u64,
    /// Entries on disk.
    pub disk_entries: u64,
    /// What they take in the file, in bytes.
    pub disk_bytes: u64,
    /// Lookups that found a fresh entry.
    pub hits_fresh: u64,
    /// Lookups that found a stale one.
    pub hits_stale: u64,
    /// Hits, of either kind, that came from disk.
    pub hits_disk: u64,
    /// Lookups that found none.
    pub misses: u64,
    /// Entries that were put in.
    pub puts: u64,
    /// Entries that left memory for want of room or by their age.
    pub evictions: u64,
    /// Entries that left the disk for want of room or by their age.
    pub disk_evictions: u64,
    /// Reads and writes that the disk failed, entries that could not be read included.
    pub disk_errors: u64,
    /// Reads and writes that were left out since the disk was too slow for them.
    pub disk_dropped: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    hits_fresh: AtomicU64,
    hits_stale: AtomicU64,
    hits_disk: AtomicU64,
    misses: AtomicU64,
    puts: AtomicU64,
    evictions: AtomicU64,
    pub(super) disk_bytes: AtomicU64,
    pub(super) disk_evictions: AtomicU64,
    pub(super) disk_errors: AtomicU64,
    pub(super) disk_dropped: AtomicU64,
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Entries by their keys.
#[derive(Debug)]
pub struct Store {
    memory: Cache<CacheKey, Arc<Entry>>,
    /// Bytes of entries that the map may not have counted yet, and the most of them.
    uncounted: AtomicU64,
    most_uncounted: u64,
    recordings: Room,
    disk: Option<Disk>,
    counters: Arc<Counters>,
    largest: usize,
}

impl Store {
    /// Opens a store, and its file where it has one. Blocks while it reads the file through.
    ///
    /// # Errors
    ///
    /// [`OpenError`] for a file that cannot be used.
    pub fn open(settings: &Settings, now: Timestamp) -> Result<Self, OpenError> {
        let counters = Arc::new(Counters::default());
        let evicted = Arc::clone(&counters);
        let most_uncounted = settings.memory / UNCOUNTED;
        let memory = Cache::builder()
            .max_capacity(settings.memory - most_uncounted)
            .weigher(|_, entry: &Arc<Entry>| u32::try_from(entry.weight()).unwrap_or(u32::MAX))
            .time_to_live(settings.keep.min(LONGEST))
            .eviction_listener(move |_, _, cause| {
                if matches!(cause, RemovalCause::Size | RemovalCause::Expired) {
                    count(&evicted.evictions);
                }
            })
            .build();
        let disk = match &settings.disk {
            Some(file) => Some(Disk::open(file, settings, (now, &counters))?),
            None => None,
        };
        Ok(Self {
            memory,
            uncounted: AtomicU64::new(0),
            most_uncounted,
            recordings: Room {
                held: Arc::default(),
                most: usize::try_from(settings.memory).unwrap_or(usize::MAX),
            },
            disk,
            counters,
            largest: settings.largest,
        })
    }

    /// Looks an entry up: in memory, which never waits, then on disk.
    ///
    /// Cancel safe. What the disk has is known in memory, so that a miss does not touch it; a disk
    /// that takes longer than a quarter of a second is a miss. By real time, also under a paused
    /// clock, which stands still meanwhile.
    pub async fn find(&self, key: &CacheKey, now: Timestamp, ages: Ages) -> Option<Hit> {
        let mut hit = self.memory.get(key).and_then(|entry| hit(entry, now, ages));
        if hit.is_none()
            && let Some(disk) = &self.disk
            && let Some(entry) = disk.read(key).await
        {
            hit = self::hit(Arc::new(entry), now, ages);
            if let Some(hit) = &hit {
                count(&self.counters.hits_disk);
                self.recall(*key, &hit.entry);
            }
        }
        count(match hit.as_ref().map(|hit| hit.freshness) {
            Some(Freshness::Fresh) => &self.counters.hits_fresh,
            Some(Freshness::Stale) => &self.counters.hits_stale,
            None => &self.counters.misses,
        });
        hit
    }

    /// Keeps an entry, in place of an older one. The disk follows when it can.
    pub fn put(&self, key: CacheKey, entry: Entry) {
        let entry = Arc::new(entry);
        if let Some(disk) = &self.disk {
            disk.write(key, Arc::clone(&entry));
        }
        self.remember(key, entry);
        count(&self.counters.puts);
    }

    fn remember(&self, key: CacheKey, entry: Arc<Entry>) {
        let weight = entry.weight();
        self.memory.insert(key, entry);
        self.count_weight(weight);
    }

    /// Takes in an entry that the disk had, unless a newer one was put in while it was read.
    fn recall(&self, key: CacheKey, entry: &Arc<Entry>) {
        self.memory.entry(key).and_compute_with(|there| {
            let is_newer = there.is_some_and(|it| it.value().stored_at() > entry.stored_at());
            if is_newer {
                Op::Nop
            } else {
                Op::Put(Arc::clone(entry))
            }
        });
        self.count_weight(entry.weight());
    }

    /// The map lets entries wait before it counts them: for those there is room beside its bound.
    fn count_weight(&self, weight: usize) {
        let weight = u64::try_from(weight).unwrap_or(u64::MAX);
        let waiting = self.uncounted.fetch_add(weight, Ordering::Relaxed);
        if waiting.saturating_add(weight) > self.most_uncounted {
            self.uncounted.store(0, Ordering::Relaxed);
            self.memory.run_pending_tasks();
        }
    }

    /// What listens to a stream that is to be kept. All that listen hold as much together as the memory
    /// for entries is large; beyond that an answer is not kept.
    #[must_use]
    pub fn recording(&self, status: StatusCode, headers: &HeaderMap) -> Recording {
        Recording::new(status, headers, self.largest).within(self.recordings.clone())
    }

    /// Most bytes of a message that is kept.
    #[must_use]
    pub const fn largest(&self) -> usize {
        self.largest
    }

    /// Waits until everything that was put in before is on disk.
    pub async fn flush(&self) {
        if let Some(disk) = &self.disk {
            disk.flush().await;
        }
    }

    /// The same, and closes the file: before the process ends. Memory serves on.
    pub async fn close(&self) {
        if let Some(disk) = &self.disk {
            disk.close().await;
        }
    }

    /// What it holds and has done.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.memory.run_pending_tasks();
        let counters = &*self.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            entries: self.memory.entry_count(),
            bytes: self.memory.weighted_size(),
            disk_entries: self.disk.as_ref().map_or(0, Disk::entries),
            disk_bytes: read(&counters.disk_bytes),
            hits_fresh: read(&counters.hits_fresh),
            hits_stale: read(&counters.hits_stale),
            hits_disk: read(&counters.hits_disk),
            misses: read(&counters.misses),
            puts: read(&counters.puts),
            evictions: read(&counters.evictions),
            disk_evictions: read(&counters.disk_evictions),
            disk_errors: read(&counters.disk_errors),
            disk_dropped: read(&counters.disk_dropped),
        }
    }
}

fn hit(entry: Arc<Entry>, now: Timestamp, ages: Ages) -> Option<Hit> {
    let age = now.duration_since(entry.stored_at());
    if age < -CLOCK_SLACK {
        return None;
    }
    let age = Duration::try_from(age).unwrap_or_default();
    let freshness = ages.freshness(age)?;
    Some(Hit {
        entry,
        age,
        freshness,
    })
}

#[cfg(test)]
mod tests;
