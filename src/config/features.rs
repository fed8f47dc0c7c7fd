//! Lists of features: what a target cannot carry, what may get lost.

use super::document::Section;
use crate::capability::{Feature, Features};

/// The features of a list; `None` where there is no list.
pub(super) fn read_features(section: &Section<'_>, key: &'static str) -> Option<Features> {
    let words = section.strings(key)?;
    let read = |word: toml::Spanned<String>| match word.get_ref().parse::<Feature>() {
        Ok(feature) => Some(feature),
        Err(why) => {
            let what = format!("`{}`: {why}", section.name(key));
            section.doc().refuse(&word.span(), what);
            None
        }
    };
    Some(words.into_iter().filter_map(read).collect())
}
