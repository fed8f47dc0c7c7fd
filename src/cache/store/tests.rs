use std::fs;
use std::path::Path;

use http::{HeaderMap, StatusCode};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;

use super::*;

const AGES: Ages = Ages {
    ttl: Duration::from_secs(60),
    stale_if_error: Duration::from_secs(600),
};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(2_000_000_000 + seconds).unwrap()
}

fn key(n: u64) -> CacheKey {
    let mut key = [7; 32];
    key[..8].copy_from_slice(&n.to_le_bytes());
    CacheKey(key)
}

fn entry(text: &str, at: Timestamp) -> Entry {
    let body = json!({ "type": "message", "model": "m", "content": [{ "type": "text", "text": text }],
        "stop_reason": "end_turn", "usage": { "input_tokens": 5, "output_tokens": 3 } });
    let mut headers = HeaderMap::new();
    headers.insert("request-id", "req_1".parse().unwrap());
    headers.insert("content-type", "application/json".parse().unwrap());
    let body = body.to_string();
    Entry::of_body(StatusCode::OK, &headers, body.as_bytes(), (at, 1 << 20)).unwrap()
}

fn settings(memory: u64, disk: Option<(PathBuf, u64)>) -> Settings {
    Settings {
        memory,
        keep: AGES.stale_if_error,
        largest: 1 << 20,
        disk,
    }
}

/// A place of its own that is removed with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("seawall-cache-{name}-{}", std::process::id()));
        drop(fs::remove_dir_all(&path));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("cache.db")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn on_disk(path: &Path, bytes: u64) -> Result<Store, OpenError> {
    Store::open(&settings(1 << 20, Some((path.to_owned(), bytes))), at(0))
}

#[tokio::test]
async fn an_entry_is_fresh_then_stale_then_gone() {
    let store = Store::open(&settings(1 << 20, None), at(0)).unwrap();
    store.put(key(1), entry("a", at(0)));
    for (seconds, ages, expected) in [
        (0, AGES, Some("hit; age=0")),
        (60, AGES, Some("hit; age=60")),
        (61, AGES, Some("hit; age=61; stale")),
        (61, AGES.fresh_only(), None),
        (600, AGES, Some("hit; age=600; stale")),
        (601, AGES, None),
        // The wall clock was set back.
        (-60, AGES, Some("hit; age=0")),
        (-61, AGES, None),
    ] {
        let hit = store.find(&key(1), at(seconds), ages).await;
        assert_eq!(hit.map(|hit| hit.badge()).as_deref(), expected, "{seconds}");
    }
    assert!(store.find(&key(2), at(0), AGES).await.is_none());
    let stats = store.stats();
    assert_eq!(
        (stats.hits_fresh, stats.hits_stale, stats.misses),
        (3, 2, 4)
    );
    assert_eq!((stats.entries, stats.puts), (1, 1));
}

#[tokio::test]
async fn memory_is_bounded_by_bytes_whatever_is_put_in() {
    let bound = 1_000_000;
    let store = Store::open(&settings(bound, None), at(0)).unwrap();
    let mut rng = StdRng::seed_from_u64(11);
    let mut put = 0;
    while put < 12_000_000 {
        let length = match rng.random_range(0..10) {
            0 => rng.random_range(0..400_000),
            1..4 => rng.random_range(0..20_000),
            _ => rng.random_range(0..200),
        };
        let entry = entry(&"x".repeat(length), at(0));
        put += entry.weight();
        store.put(key(rng.random_range(0..3_000)), entry);
        let held: usize = store.memory.iter().map(|(_, entry)| entry.weight()).sum();
        assert!(held as u64 <= bound, "{held}");
        assert!(store.stats().bytes <= bound);
    }
    let stats = store.stats();
    assert!(stats.evictions > 0 && stats.entries > 10, "{stats:?}");
    // One that has no room at all pushes nobody out.
    store.put(key(9_999), entry(&"x".repeat(1_000_000), at(0)));
    assert!(store.find(&key(9_999), at(0), AGES).await.is_none());
}

#[tokio::test]
async fn what_is_on_disk_outlives_the_store_with_its_age() {
    let folder = Folder::new("restart");
    let written = entry("Grüße", at(0));
    {
        let store = on_disk(&folder.file(), 1 << 20).unwrap();
        store.put(key(1), written.clone());
        store.flush().await;
        assert_eq!(store.stats().disk_entries, 1);
        store.close().await;
        // Closed, it serves on from memory, and says what it leaves out.
        store.put(key(2), written.clone());
        assert!(store.find(&key(2), at(0), AGES).await.is_some());
        assert_eq!(store.stats().disk_dropped, 1);
    }
    let store = on_disk(&folder.file(), 1 << 20).unwrap();
    assert_eq!((store.stats().entries, store.stats().disk_entries), (0, 1));
    let hit = store.find(&key(1), at(90), AGES).await.unwrap();
    assert_eq!((&*hit.entry, hit.age), (&written, Duration::from_secs(90)));
    assert_eq!(hit.freshness, Freshness::Stale);
    // From here on it is in memory.
    store.find(&key(1), at(10), AGES).await.unwrap();
    let stats = store.stats();
    assert_eq!(
        (stats.hits_disk, stats.hits_fresh, stats.hits_stale),
        (1, 1, 1)
    );
    assert_eq!((stats.entries, stats.disk_errors), (1, 0));
    store.close().await;
    // What nobody may be served any more is not opened again.
    let later = Store::open(&settings(1 << 20, Some((folder.file(), 1 << 20))), at(601)).unwrap();
    assert_eq!(
        (later.stats().disk_entries, later.stats().disk_evictions),
        (0, 1)
    );
    assert!(later.find(&key(1), at(10), AGES).await.is_none());
}

#[cfg(unix)]
#[tokio::test]
async fn the_file_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new("private");
    let store = on_disk(&folder.file(), 1 << 20).unwrap();
    store.put(key(1), entry("a", at(0)));
    store.flush().await;
    let mut files = 0;
    for file in fs::read_dir(&folder.0).unwrap() {
        let mode = file.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0);
        files += 1;
    }
    assert!(files > 0);
}

#[tokio::test]
async fn the_disk_is_bounded_and_the_oldest_leave_first() {
    let folder = Folder::new("bound");
    let bound = 400_000;
    let store = on_disk(&folder.file(), bound).unwrap();
    for n in 0..300_u32 {
        store.put(key(n.into()), entry(&"x".repeat(5_000), at(n.into())));
        store.flush().await;
        assert!(store.stats().disk_bytes <= bound);
    }
    let stats = store.stats();
    assert!(stats.disk_evictions > 200, "{stats:?}");
    assert_eq!(stats.disk_entries + stats.disk_evictions, 300);
    assert_eq!((stats.disk_errors, stats.disk_dropped), (0, 0));
    store.close().await;
    let length = fs::metadata(folder.file()).unwrap().len();
    assert!(length <= bound + 20_000, "{length}");
    let store = on_disk(&folder.file(), bound).unwrap();
    assert!(store.find(&key(299), at(300), AGES).await.is_some());
    assert!(store.find(&key(0), at(300), AGES).await.is_none());
}

#[tokio::test]
async fn a_disk_that_is_too_slow_is_left_out_and_counted() {
    let folder = Folder::new("slow");
    let store = on_disk(&folder.file(), 1 << 22).unwrap();
    let entry = entry("a", at(0));
    // Another connection has the file to itself.
    let other = rusqlite::Connection::open(folder.file()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    for n in 0..1_000 {
        store.put(key(n), entry.clone());
    }
    let dropped = store.stats().disk_dropped;
    assert!((700..=744).contains(&dropped), "{dropped}");
    other.execute_batch("COMMIT").unwrap();
    store.flush().await;
    let stats = store.stats();
    // The first may have waited for too long.
    assert_eq!(stats.disk_entries + stats.disk_errors, 1_000 - dropped);
    assert!(stats.disk_entries > 200, "{stats:?}");
}

/// Such as by a call that asked for a new answer.
#[tokio::test]
async fn what_is_put_in_while_the_disk_is_read_stays() {
    let folder = Folder::new("race");
    let mut store = on_disk(&folder.file(), 1 << 22).unwrap();
    store.put(key(1), entry("old", at(0)));
    store.flush().await;
    store.memory.invalidate_all();
    // The disk's thread waits for the other connection, and the lookup behind it.
    let other = rusqlite::Connection::open(folder.file()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    store.put(key(2), entry("b", at(0)));
    store.disk.as_mut().unwrap().patience = Duration::from_secs(60);
    let one = key(1);
    let mut finding = Box::pin(store.find(&one, at(2), AGES));
    assert!(futures_util::poll!(&mut finding).is_pending());
    store.put(key(1), entry("new", at(1)));
    other.execute_batch("COMMIT").unwrap();
    let found = finding.await.unwrap();
    assert_eq!(*found.entry, entry("old", at(0)));
    let hit = store.find(&key(1), at(2), AGES).await.unwrap();
    assert_eq!(*hit.entry, entry("new", at(1)));
    store.close().await;
}

#[tokio::test]
async fn a_lookup_does_not_wait_for_a_disk_that_hangs() {
    let folder = Folder::new("hangs");
    let mut store = on_disk(&folder.file(), 1 << 22).unwrap();
    store.put(key(1), entry("a", at(0)));
    store.flush().await;
    store.memory.invalidate_all();
    let other = rusqlite::Connection::open(folder.file()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    // The thread waits for the other connection; the lookup for nobody.
    store.put(key(2), entry("b", at(0)));
    store.disk.as_mut().unwrap().patience = Duration::ZERO;
    assert!(store.find(&key(1), at(0), AGES).await.is_none());
    assert_eq!((store.stats().misses, store.stats().disk_dropped), (1, 1));
    other.execute_batch("COMMIT").unwrap();
    store.close().await;
}

/// A disk takes real time, which no virtual clock knows of: it stands still until the disk has
/// answered.
#[tokio::test(start_paused = true)]
async fn a_paused_clock_waits_for_the_disk() {
    let folder = Folder::new("paused");
    let store = on_disk(&folder.file(), 1 << 22).unwrap();
    let began = tokio::time::Instant::now();
    let mut ticking = tokio::task::JoinSet::new();
    ticking.spawn(async {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    tokio::task::yield_now().await;
    for n in 0..100 {
        store.put(key(n), entry("a", at(0)));
    }
    store.flush().await;
    store.memory.invalidate_all();
    for n in 0..100 {
        assert!(store.find(&key(n), at(0), AGES).await.is_some(), "{n}");
    }
    assert_eq!(store.stats().hits_disk, 100);
    assert_eq!(began.elapsed(), Duration::ZERO);
    store.close().await;
}

#[tokio::test]
async fn an_age_beyond_all_bounds_is_no_panic() {
    let folder = Folder::new("forever");
    let settings = Settings {
        keep: Duration::MAX,
        ..settings(1 << 20, Some((folder.file(), 1 << 20)))
    };
    let forever = Ages {
        ttl: Duration::MAX,
        stale_if_error: Duration::MAX,
    };
    let store = Store::open(&settings, Timestamp::MAX).unwrap();
    store.put(key(1), entry("a", Timestamp::MIN));
    store.put(key(2), entry("a", Timestamp::MAX));
    assert!(store.find(&key(1), Timestamp::MAX, forever).await.is_some());
    assert!(store.find(&key(2), Timestamp::MIN, forever).await.is_none());
    store.close().await;
}

#[tokio::test]
async fn a_file_that_is_not_ours_is_named_and_not_touched() {
    let folder = Folder::new("foreign");
    let file = folder.file();
    let refused = |contents: &[u8]| {
        fs::write(&file, contents).unwrap();
        let error = on_disk(&file, 1 << 20).unwrap_err();
        assert_eq!(fs::read(&file).unwrap(), contents);
        assert!(error.to_string().contains("cache.db"), "{error}");
        error
    };
    let foreign = refused(
        b"# my notes, which are no database\n"
            .repeat(100)
            .as_slice(),
    );
    assert!(matches!(foreign, OpenError::Foreign { .. }), "{foreign}");

    fs::remove_file(&file).unwrap();
    let other = rusqlite::Connection::open(&file).unwrap();
    other.execute_batch("CREATE TABLE mine (a)").unwrap();
    drop(other);
    let foreign = refused(&fs::read(&file).unwrap());
    assert!(matches!(foreign, OpenError::Foreign { .. }), "{foreign}");

    fs::remove_file(&file).unwrap();
    on_disk(&file, 1 << 20).unwrap().close().await;
    let other = rusqlite::Connection::open(&file).unwrap();
    other.pragma_update(None, "user_version", 99).unwrap();
    other.pragma_update(None, "journal_mode", "DELETE").unwrap();
    drop(other);
    let newer = refused(&fs::read(&file).unwrap());
    assert!(
        matches!(newer, OpenError::Version { found: 99, .. }),
        "{newer}"
    );

    let missing = folder.0.join("no such folder").join("cache.db");
    let missing = on_disk(&missing, 1 << 20).unwrap_err();
    assert!(matches!(missing, OpenError::Unusable { .. }), "{missing}");
}

#[tokio::test]
async fn a_damaged_file_is_an_error_at_the_start_and_a_miss_later() {
    let folder = Folder::new("corrupt");
    let file = folder.file();
    {
        let store = on_disk(&file, 1 << 20).unwrap();
        for n in 0..40 {
            store.put(key(n), entry(&"x".repeat(3_000), at(0)));
        }
        store.close().await;
    }
    let length = fs::metadata(&file).unwrap().len();
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..usize::try_from(length / 2).unwrap()]).unwrap();
    let error = on_disk(&file, 1 << 20).unwrap_err();
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error}");

    // A row that cannot be read as an answer is no answer.
    fs::write(&file, &whole).unwrap();
    let other = rusqlite::Connection::open(&file).unwrap();
    other
        .execute("UPDATE entries SET body = x'7b7d'", [])
        .unwrap();
    drop(other);
    let store = on_disk(&file, 1 << 20).unwrap();
    assert!(store.find(&key(1), at(0), AGES).await.is_none());
    assert_eq!((store.stats().misses, store.stats().disk_errors), (1, 1));
}
