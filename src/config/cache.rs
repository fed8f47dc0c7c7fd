//! The cache that all routes keep their answers in.

use std::path::{Path, PathBuf};

use toml::Spanned;

use super::document::Section;
use crate::size::Humane;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Where answers are kept, and how many bytes of them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheStore {
    /// Bytes in memory.
    pub memory: u64,
    /// The file that survives a restart; `None`: memory alone.
    pub disk: Option<PathBuf>,
    /// Bytes in that file.
    pub disk_limit: u64,
    /// The largest answer that is kept, in bytes; at most `memory`.
    pub largest: u64,
}

impl Default for CacheStore {
    fn default() -> Self {
        Self {
            memory: 64 * MIB,
            disk: None,
            disk_limit: GIB,
            largest: 4 * MIB,
        }
    }
}

/// Reads the settings of the cache. `used` says whether a ladder has it.
pub(super) fn read(section: Section<'_>, beside: Option<&Path>, used: bool) -> CacheStore {
    let doc = section.doc();
    let default = CacheStore::default();
    let memory = section
        .size("memory", MIB..=1024 * GIB)
        .map_or(default.memory, Spanned::into_inner);
    let largest = section.size("largest", KIB..=GIB);
    let disk = section.parsed("disk", |path| {
        if path.trim().is_empty() {
            return Err("an empty text is no path: write one such as \"cache.sqlite\"".to_owned());
        }
        let file = beside.map_or_else(|| PathBuf::from(path), |dir| dir.join(path));
        let folder = file.parent().filter(|dir| !dir.as_os_str().is_empty());
        match folder {
            _ if file.is_dir() => Err(format!(
                "{} is a folder: name a file, which seawall makes",
                file.display()
            )),
            Some(folder) if !folder.is_dir() => Err(format!(
                "there is no folder {}: make it, or name a file in another one",
                folder.display()
            )),
            _ => Ok(file),
        }
    });
    let disk_limit = section.size("disk_limit", MIB..=1024 * GIB);
    if let Some(limit) = disk_limit.as_ref().filter(|_| !section.has("disk")) {
        let what = format!(
            "`{}` counts only with disk = \"path\": write that, or leave it out",
            section.name("disk_limit")
        );
        doc.refuse(&limit.span(), what);
    }
    let disk_limit = disk_limit.map_or(default.disk_limit, Spanned::into_inner);
    let most = match &disk {
        Some(_) => memory.min(disk_limit),
        None => memory,
    };
    if let Some(largest) = largest.as_ref().filter(|largest| *largest.get_ref() > most) {
        let what = format!(
            "`{}` is {}, more than the {} that the whole cache has: write less, or give it more",
            section.name("largest"),
            Humane(*largest.get_ref()),
            Humane(most)
        );
        doc.refuse(&largest.span(), what);
    }
    if section.is_present() && !used {
        doc.warn(
            Some(section.span()),
            "no ladder has the rung \"cache\", so nothing is kept: add it to one, or leave [cache] out",
        );
    }
    section.close();
    CacheStore {
        memory,
        disk: disk.map(Spanned::into_inner),
        disk_limit,
        largest: largest.map_or_else(|| default.largest.min(most), Spanned::into_inner),
    }
}
