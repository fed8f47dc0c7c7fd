//! The models endpoint.

use serde_json::json;

use super::scenario::Settings;
use super::wire::{self, Refusal};

/// The models that `GET /v1/models` lists, as far as the scenario knows them.
pub(super) const LISTED: [&str; 12] = [
    "claude-fable-5-2",
    "claude-opus-5-5",
    "claude-opus-5",
    "claude-opus-4-8",
    "claude-opus-4-7",
    "claude-opus-4-6",
    "claude-sonnet-5-5",
    "claude-sonnet-5",
    "claude-sonnet-4-6",
    "claude-sonnet-4-5-20250929",
    "claude-haiku-5-5",
    "claude-haiku-4-5-20251001",
];

/// The body of `GET /v1/models` or `GET /v1/models/{id}`.
pub(super) fn body(path: &str, settings: &Settings) -> Result<String, Refusal> {
    let wanted = path
        .strip_prefix("/v1/models")
        .unwrap_or_default()
        .trim_start_matches('/');
    if wanted.is_empty() {
        let known = || LISTED.into_iter().filter(|id| settings.model(id).is_some());
        let cards: Vec<_> = known().map(card).collect();
        let list = json!({
            "data": cards, "has_more": false, "first_id": known().next(), "last_id": known().next_back(),
        });
        return Ok(list.to_string());
    }
    match settings.model(wanted) {
        Some(_) => Ok(card(wanted).to_string()),
        None => Err(Refusal::new(404, format!("model: {wanted}"))),
    }
}

fn card(id: &str) -> serde_json::Value {
    let (context, most) = wire::room(id);
    json!({
        "type": "model", "id": id, "display_name": display_name(id),
        "created_at": "2025-09-29T00:00:00Z",
        "max_input_tokens": context, "max_tokens": most,
    })
}

/// `claude-opus-5-5` as `Claude Opus 5.5`.
pub(super) fn display_name(id: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut numbers: Vec<&str> = Vec::new();
    for part in id.split('-').filter(|part| part.len() < 8) {
        if part.bytes().all(|b| b.is_ascii_digit()) {
            numbers.push(part);
            continue;
        }
        let mut letters = part.chars();
        let first = letters.next().map(|c| c.to_ascii_uppercase());
        words.push(first.into_iter().chain(letters).collect());
    }
    words.push(numbers.join("."));
    words.join(" ")
}
