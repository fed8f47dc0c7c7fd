//! The limits as an administrator reads them: the organisation's, and those of a workspace.

use http::{HeaderMap, Uri};
use serde_json::{Value, json};

use super::catalogue;
use super::scenario::{QuotaSettings, Settings, WorkspaceSettings};
use super::seed;
use super::wire::Refusal;

/// Whether the path is one of the two.
pub(super) fn is_here(path: &str) -> bool {
    path == "/v1/organizations/rate_limits" || workspace(path).is_some()
}

fn workspace(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("/v1/organizations/workspaces/")?;
    let id = rest.strip_suffix("/rate_limits")?;
    (!id.is_empty() && !id.contains('/')).then_some(id)
}

/// Only an admin key may read them.
pub(super) fn authorise(headers: &HeaderMap, settings: &Settings) -> Result<(), Refusal> {
    let key = headers.get("x-api-key").and_then(|key| key.to_str().ok());
    let known = |key: &str| match settings.admin_keys.as_slice() {
        [] => key.starts_with("sk-ant-admin"),
        keys => keys.iter().any(|known| known == key),
    };
    match key {
        None | Some("") => Err(Refusal::new(401, "x-api-key header is required")),
        Some(key) if known(key) => Ok(()),
        Some(_) => Err(Refusal::new(401, "invalid x-api-key")),
    }
}

/// The body: one entry a quota, all of them on one page.
pub(super) fn body(uri: &Uri, settings: &Settings) -> Result<String, Refusal> {
    let asked = |name: &str| {
        let pairs = uri.query().unwrap_or_default().split('&');
        let mut values = pairs.filter_map(|pair| pair.split_once('='));
        values.find_map(|(key, value)| (key == name).then_some(value))
    };
    let of_models = asked("group_type").is_none_or(|group| group == "model_group");
    let mut quotas: Vec<_> = settings.quotas.iter().filter(|_| of_models).collect();
    if let Some(model) = asked("model") {
        let own = settings
            .model(model)
            .and_then(|_| quota_of(model, settings));
        let Some(own) = own else {
            return Err(Refusal::new(404, format!("model: {model}")));
        };
        quotas.retain(|quota| *quota == own);
    }
    let data: Vec<Value> = match workspace(uri.path()) {
        None => quotas.into_iter().map(|q| entry(q, settings)).collect(),
        Some(id) => {
            let own: Vec<_> = settings.workspaces.iter().filter(|w| w.id == id).collect();
            if own.is_empty() {
                return Err(Refusal::new(404, format!("workspace: {id}")));
            }
            let of = |quota: &QuotaSettings| {
                let own = own
                    .iter()
                    .find(|workspace| quota.covers(&workspace.model))?;
                Some(overridden(own, quota, settings))
            };
            quotas.into_iter().filter_map(of).collect()
        }
    };
    Ok(json!({ "data": data, "next_page": null }).to_string())
}

/// The first that covers a model, as when it is charged.
fn quota_of<'a>(model: &str, settings: &'a Settings) -> Option<&'a QuotaSettings> {
    settings.quotas.iter().find(|quota| quota.covers(model))
}

fn entry(quota: &QuotaSettings, settings: &Settings) -> Value {
    let limits: Vec<_> = limiters(quota)
        .into_iter()
        .filter_map(|(kind, value)| Some(json!({ "type": kind, "value": value? })))
        .collect();
    json!({
        "type": "rate_limit",
        "id": id("rl_", quota),
        "group": group(quota),
        "models": models(quota, settings),
        "limits": limits,
    })
}

/// What a workspace has below the organisation; what it inherits is not listed.
fn overridden(own: &WorkspaceSettings, quota: &QuotaSettings, settings: &Settings) -> Value {
    let values = [
        own.requests_per_minute,
        own.input_tokens_per_minute,
        own.output_tokens_per_minute,
    ];
    let limits: Vec<_> = limiters(quota)
        .into_iter()
        .zip(values)
        .filter_map(|((kind, org_limit), value)| {
            let source = json!({ "type": "workspace" });
            Some(json!({ "type": kind, "value": value?, "org_limit": org_limit, "source": source }))
        })
        .collect();
    json!({
        "type": "workspace_rate_limit",
        "workspace_id": own.id,
        "rate_limit_id": id("rl_", quota),
        "group": group(quota),
        "models": models(quota, settings),
        "limits": limits,
    })
}

const fn limiters(quota: &QuotaSettings) -> [(&'static str, Option<u64>); 3] {
    let input = if quota.cache_reads_count {
        "input_tokens_per_minute"
    } else {
        "input_tokens_per_minute_cache_aware"
    };
    [
        ("requests_per_minute", quota.requests_per_minute),
        (input, quota.input_tokens_per_minute),
        ("output_tokens_per_minute", quota.output_tokens_per_minute),
    ]
}

fn group(quota: &QuotaSettings) -> Value {
    let name = quota
        .models
        .first()
        .map_or("", |name| name.trim_end_matches('-'));
    json!({
        "type": "model_group",
        "id": id("rlg_", quota),
        "display_name": catalogue::display_name(name),
    })
}

fn models(quota: &QuotaSettings, settings: &Settings) -> Vec<String> {
    let whole = quota.models.iter().filter(|name| !name.ends_with('-'));
    let mut names: Vec<String> = catalogue::LISTED
        .into_iter()
        .filter(|name| settings.model(name).is_some())
        .filter(|name| quota_of(name, settings) == Some(quota))
        .map(ToOwned::to_owned)
        .collect();
    for name in whole {
        if settings.model(name).is_some() && !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

fn id(prefix: &str, quota: &QuotaSettings) -> String {
    let names: Vec<&[u8]> = quota.models.iter().map(String::as_bytes).collect();
    super::head::id(prefix, seed::digest(&names))
}
