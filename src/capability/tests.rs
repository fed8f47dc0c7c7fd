use super::{Capabilities, Feature, Features, Fit, LEAST_ANSWER, Misfit, Needs, Trait, fit};

const OLD: &str = "2023-06-01";
const STRICT: &str = "2026-10-21";

fn set(features: &[Feature]) -> Features {
    features.iter().copied().collect()
}

fn needing(features: Features) -> Needs {
    Needs {
        features,
        ..Needs::default()
    }
}

/// Every model of the provider's price list with its context and its longest answer.
const LIMITS: [(&str, u64, u64); 18] = [
    ("claude-fable-5-2", 1_000_000, 128_000),
    ("claude-mythos-5-2", 1_000_000, 128_000),
    ("claude-fable-5-1", 1_000_000, 128_000),
    ("claude-mythos-5-1", 1_000_000, 128_000),
    ("claude-fable-5", 1_000_000, 128_000),
    ("claude-mythos-5", 1_000_000, 128_000),
    ("claude-opus-5-5", 1_000_000, 128_000),
    ("claude-opus-5", 1_000_000, 128_000),
    ("claude-opus-4-8", 1_000_000, 128_000),
    ("claude-opus-4-7", 1_000_000, 128_000),
    ("claude-opus-4-6", 1_000_000, 128_000),
    ("claude-opus-4-5-20251101", 200_000, 64_000),
    ("claude-sonnet-5-5", 1_000_000, 128_000),
    ("claude-sonnet-5", 1_000_000, 128_000),
    ("claude-sonnet-4-6", 1_000_000, 128_000),
    (
        "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
        200_000,
        64_000,
    ),
    ("claude-haiku-5-5", 1_000_000, 128_000),
    ("claude-haiku-4-5@20251001", 200_000, 64_000),
];

#[test]
fn limits_are_known_for_every_spelling_of_a_model() {
    for (model, context, output) in LIMITS {
        let known = Capabilities::of(Some(model), OLD);
        assert_eq!(
            (known.context_tokens, known.output_tokens),
            (Some(context), Some(output)),
            "{model}"
        );
        assert!(
            crate::prices::rates(model, 1, crate::prices::Day(2026, 11, 23)).is_some(),
            "{model} has no price"
        );
    }
}

/// What a model refuses of all that a request can ask for.
fn refusals(model: &str) -> String {
    let target = Capabilities::of(Some(model), OLD);
    let lost = |needs: Needs| needs.lost_to(target.features, target.refuses);
    let with = |which: Trait, feature: Feature| {
        let mut needs = needing(feature.into());
        needs.traits.insert(which);
        needs
    };
    let uses = [
        ("adaptive", with(Trait::AdaptiveThinking, Feature::Thinking)),
        ("budget", with(Trait::ThinkingBudget, Feature::Thinking)),
        ("tuned", with(Trait::TunedSampling, Feature::Sampling)),
    ];
    let used = uses
        .into_iter()
        .filter(|(_, needs)| !lost(*needs).is_empty());
    let mut words: Vec<&str> = used.map(|(word, _)| word).collect();
    words.extend(lost(needing(Features::all())).iter().map(Feature::as_str));
    words.join(" ")
}

#[test]
fn what_models_refuse_is_refused_and_nothing_else() {
    const ALWAYS_THINKS: &str = "budget tuned no_thinking prefill fast_mode";
    const UNFORCED: &str = "budget tuned forced_tools no_thinking prefill fast_mode";
    for (model, refused) in [
        (
            "claude-haiku-4-5-20251001",
            "adaptive effort fast_mode inference_geo",
        ),
        (
            "claude-sonnet-4-5",
            "adaptive effort fast_mode inference_geo",
        ),
        ("claude-opus-4-5", "adaptive fast_mode inference_geo"),
        ("claude-sonnet-4-6", "prefill fast_mode"),
        ("claude-opus-4-6", "prefill fast_mode"),
        ("claude-opus-4-7", "budget tuned prefill fast_mode"),
        ("claude-opus-4-8", "budget tuned prefill"),
        ("claude-sonnet-5", "budget tuned prefill fast_mode"),
        ("claude-opus-5", "budget tuned prefill"),
        ("claude-haiku-5-5", "budget tuned prefill fast_mode"),
        ("claude-sonnet-5-5", ALWAYS_THINKS),
        ("claude-fable-5", ALWAYS_THINKS),
        ("claude-mythos-5", ALWAYS_THINKS),
        (
            "claude-opus-5-5",
            "budget tuned forced_tools no_thinking prefill",
        ),
        ("claude-fable-5-1", UNFORCED),
        ("claude-mythos-5-1", UNFORCED),
        ("claude-fable-5-2", UNFORCED),
        ("claude-mythos-5-2", UNFORCED),
        ("claude-3-5-haiku-latest", ""),
        ("claude-opus-4-1-20250805", ""),
        ("somebody-elses-model", ""),
    ] {
        assert_eq!(refusals(model), refused, "{model}");
    }
}

#[test]
fn a_strict_version_refuses_its_three_whatever_the_model() {
    let three = set(&[
        Feature::Sampling,
        Feature::AssistantDocuments,
        Feature::TextCitations,
    ]);
    for model in [None, Some("claude-haiku-4-5"), Some("unheard-of")] {
        let lacks = |version| {
            let carried = Capabilities::of(model, version).features;
            Capabilities::of(model, OLD).features.minus(carried)
        };
        for version in [STRICT, "2026-10-22", "2031-01-01"] {
            assert_eq!(lacks(version), three, "{version}");
        }
        for version in [OLD, "2026-10-20", "", "latest", "20261021", "9999-99-9x"] {
            assert_eq!(lacks(version), Features::NONE, "{version}");
        }
    }
}

#[test]
fn an_unheard_of_model_carries_everything_without_limit() {
    let unknown = Capabilities::of(Some("claude-opus-9"), OLD);
    assert_eq!(unknown, Capabilities::everything());
    assert_eq!(Capabilities::of(None, OLD), unknown);
    let all = Needs {
        max_tokens: Some(u64::MAX),
        ..needing(Features::all())
    };
    assert_eq!(
        fit(&all, u64::MAX - 1, &unknown, Features::NONE),
        Err(
            // Even without a limit, no number is above the largest.
            Misfit::ContextTooLong {
                prompt: u64::MAX - 1,
                answer: u64::MAX,
                limit: u64::MAX
            }
        )
    );
    let all = Needs {
        max_tokens: Some(1 << 40),
        ..all
    };
    assert_eq!(
        fit(&all, 1 << 40, &unknown, Features::NONE),
        Ok(Fit::default())
    );
}

#[test]
fn every_feature_fits_is_refused_or_gets_lost() {
    for feature in Feature::ALL.into_iter().filter(|f| f.is_capability()) {
        let needs = needing(feature.into());
        let able = Capabilities::everything();
        assert_eq!(fit(&needs, 1, &able, Features::NONE), Ok(Fit::default()));

        let unable = able.without(feature.into());
        let refused = fit(&needs, 1, &unable, Features::NONE).expect_err("it cannot");
        assert_eq!(refused.as_str(), format!("cannot_{feature}"));
        assert!(refused.to_string().contains(feature.as_str()), "{refused}");
        assert!(refused.to_string().contains("lossy"), "{refused}");
        let others = Features::all().minus(feature.into());
        let only_by_whole = fit(&needs, 1, &unable, others).is_ok();
        let is_part = matches!(
            feature,
            Feature::ForcedTools | Feature::AssistantDocuments | Feature::TextCitations
        );
        assert_eq!(only_by_whole, is_part, "{feature}");

        let lost = fit(&needs, 1, &unable, feature.into()).expect("allowed");
        assert_eq!((lost.losses, lost.max_tokens), (feature.into(), None));
        // Who does not need it does not lose it.
        let idle = needing(Features::NONE);
        assert_eq!(fit(&idle, 1, &unable, Features::all()), Ok(Fit::default()));
    }
}

#[test]
fn all_that_is_missing_is_named_and_the_first_gives_the_word() {
    let needs = needing(set(&[Feature::Prefill, Feature::Images, Feature::Tools]));
    let target = Capabilities::everything().without(set(&[Feature::Prefill, Feature::Images]));
    let refused = fit(&needs, 1, &target, Features::NONE).expect_err("two are missing");
    assert_eq!(refused.as_str(), "cannot_images");
    assert!(
        refused.to_string().contains("(images, prefill)"),
        "{refused}"
    );
    let half = fit(&needs, 1, &target, Feature::Images.into()).expect_err("one is missing");
    assert_eq!(half.as_str(), "cannot_prefill");
}

#[test]
fn a_length_fits_is_refused_or_shortened() {
    let target = Capabilities::everything()
        .with_context(200_000)
        .with_output(64_000);
    let shorten = Features::from(Feature::MaxTokens);
    let word = |asked: Option<u64>, prompt: u64, lossy: Features| {
        let needs = Needs {
            max_tokens: asked,
            ..Needs::default()
        };
        match fit(&needs, prompt, &target, lossy).map(|fit| (fit.losses, fit.max_tokens)) {
            Ok((losses, None)) => {
                assert!(losses.is_empty());
                "fits".to_owned()
            }
            Ok((losses, Some(shorter))) => {
                assert_eq!(losses, shorten);
                shorter.to_string()
            }
            Err(misfit) => misfit.as_str().to_owned(),
        }
    };
    for (asked, prompt, strict, lossy) in [
        (Some(64_000), 136_000, "fits", "fits"),
        (Some(64_001), 1_000, "output_too_long", "64000"),
        (Some(64_000), 136_001, "context_too_long", "63999"),
        (Some(100_000), 150_000, "output_too_long", "50000"),
        (
            Some(10_000),
            199_000,
            "context_too_long",
            "context_too_long",
        ),
        (
            Some(10_000),
            200_000 - LEAST_ANSWER,
            "context_too_long",
            "1024",
        ),
        // Who asks for little is not given less.
        (Some(100), 199_950, "context_too_long", "context_too_long"),
        (Some(50), 199_950, "fits", "fits"),
        (Some(0), 199_999, "fits", "fits"),
        (None, 199_999, "fits", "fits"),
        (None, 200_000, "context_too_long", "context_too_long"),
        (Some(1), u64::MAX, "context_too_long", "context_too_long"),
        (Some(u64::MAX), 1, "output_too_long", "64000"),
    ] {
        assert_eq!(
            word(asked, prompt, Features::NONE),
            strict,
            "{asked:?} {prompt}"
        );
        assert_eq!(word(asked, prompt, shorten), lossy, "{asked:?} {prompt}");
    }
}

#[test]
fn a_refused_length_says_what_to_do() {
    let target = Capabilities::everything().with_output(64_000);
    let needs = Needs {
        max_tokens: Some(70_000),
        ..Needs::default()
    };
    let refused = fit(&needs, 1, &target, Features::NONE).expect_err("too long");
    let sentence = refused.to_string();
    assert!(sentence.contains("70000") && sentence.contains("64000"));
    assert!(sentence.contains("lossy = [\"max_tokens\"]"));
    let target = target.with_context(50);
    let refused = fit(&needs, 60, &target, Features::all()).expect_err("too long");
    assert!(refused.to_string().contains("larger context"), "{refused}");
}

#[test]
fn a_shorter_answer_leaves_room_for_thinking_or_gives_it_up() {
    let target = Capabilities::everything().with_output(8_000);
    let needs = Needs {
        max_tokens: Some(64_000),
        thinking_budget: Some(32_000),
        ..needing(Feature::Thinking.into())
    };
    let shorten = Features::from(Feature::MaxTokens);
    let fitted = fit(&needs, 1, &target, shorten).expect("half of 8,000 is enough");
    assert_eq!((fitted.losses, fitted.max_tokens), (shorten, Some(8_000)));

    let small = Needs {
        thinking_budget: Some(8_000),
        ..needs
    };
    let refused = fit(&small, 1, &target, shorten).expect_err("1,000 is not");
    assert_eq!(refused.as_str(), "cannot_thinking");
    let both = shorten.with(Feature::Thinking);
    assert_eq!(fit(&small, 1, &target, both).expect("allowed").losses, both);
}

#[test]
fn thinking_of_earlier_turns_stays_with_its_model_and_its_text() {
    let thoughts = Features::from(Feature::ThinkingBlocks);
    let needs = needing(thoughts.with(Feature::Images));
    let able = Capabilities::everything();
    let losses = |needs: Needs, target: &Capabilities, lossy: Features| {
        fit(&needs, 1, target, lossy).expect("a fit").losses
    };
    let same = needs.moved(Some("claude-haiku-4-5"), Some("claude-haiku-4-5-20251001"));
    assert_eq!(losses(same, &able, Features::NONE), Features::NONE);
    assert_eq!(
        losses(needs.moved(Some("m"), None), &able, Features::NONE),
        Features::NONE
    );
    for from in [Some("claude-sonnet-5"), None] {
        let moved = needs.moved(from, Some("claude-haiku-4-5"));
        assert_eq!(losses(moved, &able, Features::NONE), thoughts);
    }
    // With an image gone, what the thinking was about is no longer there.
    let blind = able.without(Feature::Images.into());
    assert_eq!(
        losses(needs, &blind, Feature::Images.into()),
        thoughts.with(Feature::Images)
    );
}

#[test]
fn a_budget_cannot_go_on_where_the_thinking_of_its_turn_is_lost() {
    let mut open = needing(set(&[Feature::Thinking, Feature::ThinkingBlocks]));
    open.traits.insert(Trait::OpenThought);
    open.traits.insert(Trait::ThinkingBudget);
    let moved = open.moved(Some("claude-opus-4-5"), Some("claude-haiku-4-5"));
    let target = Capabilities::of(Some("claude-haiku-4-5"), OLD);
    let refused = fit(&moved, 1, &target, Features::NONE).expect_err("it must be allowed");
    assert_eq!(refused.as_str(), "cannot_thinking");
    let lost = fit(&moved, 1, &target, Feature::Thinking.into()).expect("allowed");
    assert_eq!(lost.losses, open.features);

    let mut adaptive = needing(open.features);
    adaptive.traits.insert(Trait::OpenThought);
    adaptive.traits.insert(Trait::AdaptiveThinking);
    let moved = adaptive.moved(Some("claude-sonnet-5"), Some("claude-sonnet-4-6"));
    let target = Capabilities::of(Some("claude-sonnet-4-6"), OLD);
    let lost = fit(&moved, 1, &target, Features::NONE).expect("it need not begin with thinking");
    assert_eq!(lost.losses, Feature::ThinkingBlocks.into());
}

#[test]
fn a_body_that_was_not_read_stays_with_its_model() {
    let mut unread = Needs::default();
    unread.traits.insert(Trait::Unread);
    assert!(!unread.are_known() && Needs::default().are_known());
    let target = Capabilities::of(Some("claude-haiku-4-5"), STRICT);
    assert_eq!(fit(&unread, 1, &target, Features::NONE), Ok(Fit::default()));
    let moved = unread.moved(Some("a"), Some("b"));
    let refused = fit(&moved, 1, &target, Features::all()).expect_err("unread");
    assert_eq!(refused.as_str(), "unreadable");
}

#[test]
fn thinking_that_is_bound_to_an_account_stays_with_it() {
    let thoughts = Features::from(Feature::ThinkingBlocks);
    for (model, bound) in [
        ("claude-fable-5-2", true),
        ("claude-mythos-5-2", true),
        ("claude-fable-5-1", true),
        ("claude-mythos-5-1", true),
        ("claude-opus-5-5", true),
        ("claude-sonnet-5-5", true),
        ("anthropic.claude-haiku-5-5-v1:0", true),
        ("claude-fable-5", false),
        ("claude-opus-5", false),
        ("claude-sonnet-4-6", false),
        ("claude-haiku-4-5", false),
        ("claude-unheard-of", false),
    ] {
        let needs = needing(thoughts).for_another_account(Some(model));
        let target = Capabilities::of(Some(model), OLD);
        let lost = fit(&needs, 1, &target, Features::NONE).expect("a fit");
        assert_eq!(lost.losses == thoughts, bound, "{model}");
        let none = needing(Features::NONE).for_another_account(Some(model));
        assert_eq!(fit(&none, 1, &target, Features::NONE), Ok(Fit::default()));
    }
}
