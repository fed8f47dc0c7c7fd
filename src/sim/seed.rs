//! Chance that depends on what is asked and not on when: hashes instead of one shared generator.

use rand::SeedableRng;
use rand::rngs::SmallRng;

/// Mixes a seed with more words (the finaliser of SplitMix64, Steele et al. 2014, after each).
pub(super) fn mix(seed: u64, words: &[u64]) -> u64 {
    words.iter().fold(finalise(seed), |hash, word| {
        finalise(hash ^ finalise(*word))
    })
}

/// A generator of its own for one purpose.
pub(super) fn rng(seed: u64, words: &[u64]) -> SmallRng {
    SmallRng::seed_from_u64(mix(seed, words))
}

/// A number in [0, 1) from a hash: its 53 upper bits.
pub(super) fn chance(hash: u64) -> f64 {
    let upper = u32::try_from(hash >> 32).unwrap_or_default();
    let lower = u32::try_from((hash >> 11) & 0x1f_ffff).unwrap_or_default();
    (f64::from(upper) + f64::from(lower) / 2_097_152.0) / 4_294_967_296.0
}

/// The first eight bytes of a SHA-256.
pub(super) fn digest(parts: &[&[u8]]) -> u64 {
    use sha2::{Digest, Sha256};
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part);
    }
    hasher
        .finalize()
        .iter()
        .take(8)
        .fold(0, |word, byte| (word << 8) | u64::from(*byte))
}

const fn finalise(word: u64) -> u64 {
    let z = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
