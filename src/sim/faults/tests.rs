use super::*;

fn at(seconds: u64) -> Asked<'static> {
    Asked {
        since: Duration::from_secs(seconds),
        model: "claude-sonnet-5",
        attempt: 1,
        seed: 1,
    }
}

#[test]
fn a_fault_holds_from_the_start_of_its_window_to_just_before_its_end() {
    let faults = [Fault::new(FaultKind::Overloaded)
        .between(Duration::from_secs(60), Duration::from_secs(120))];
    for (second, hit) in [(59, false), (60, true), (119, true), (120, false)] {
        assert_eq!(
            choose(&faults, &at(second)).fault.is_some(),
            hit,
            "{second}"
        );
    }
}

#[test]
fn a_fault_hits_only_its_models_and_attempts() {
    let faults = [Fault::new(FaultKind::Internal)
        .on_model("claude-sonnet")
        .on_attempts(1, 2)];
    assert!(choose(&faults, &at(0)).fault.is_some());
    assert!(
        choose(
            &faults,
            &Asked {
                model: "claude-haiku-5",
                ..at(0)
            }
        )
        .fault
        .is_none()
    );
    assert!(
        choose(
            &faults,
            &Asked {
                attempt: 2,
                ..at(0)
            }
        )
        .fault
        .is_some()
    );
    assert!(
        choose(
            &faults,
            &Asked {
                attempt: 3,
                ..at(0)
            }
        )
        .fault
        .is_none()
    );
}

#[test]
fn probability_is_met_over_many_requests() {
    let faults = [Fault::new(FaultKind::Internal).with_probability(0.15)];
    let hits = (0..20_000)
        .filter(|n| {
            let seed = seed::mix(9, &[*n]);
            choose(&faults, &Asked { seed, ..at(0) }).fault.is_some()
        })
        .count();
    // Four standard deviations of a binomial with n = 20,000 and p = 0.15 are 202.
    assert!((2_798..=3_202).contains(&hits), "{hits}");
}

#[test]
fn a_brownout_ramps_linearly_over_its_window() {
    let fault = Fault {
        ttft: Some(Duration::from_millis(500)),
        ttft_end: Some(Duration::from_millis(30_500)),
        ..Fault::new(FaultKind::Slow).between(Duration::from_secs(60), Duration::from_secs(120))
    };
    let usual = Duration::from_secs(1);
    for (second, millis) in [(60, 500), (90, 15_500), (120, 30_500), (500, 30_500)] {
        let got = fault.stretched(usual, Duration::from_secs(second));
        assert_eq!(got, Duration::from_millis(millis), "{second}");
    }
    let doubled = Fault {
        factor: Some(2.0),
        ..Fault::new(FaultKind::Slow)
    };
    assert_eq!(doubled.stretched(usual, Duration::ZERO), usual * 2);
}

#[test]
fn a_slow_fault_leaves_room_for_another() {
    let faults = [
        Fault {
            factor: Some(3.0),
            ..Fault::new(FaultKind::Slow)
        },
        Fault::new(FaultKind::CutStream),
    ];
    let chosen = choose(&faults, &at(0));
    assert!(chosen.slow.is_some());
    assert_eq!(chosen.fault.map(|f| f.kind), Some(FaultKind::CutStream));
}

#[test]
fn a_parameter_of_another_kind_is_refused() {
    let fault = Fault {
        stall_for: Some(Duration::from_secs(1)),
        ..Fault::new(FaultKind::Overloaded)
    };
    let error = validate(&[fault]).unwrap_err().to_string();
    assert!(error.contains("faults[0].stall_for"), "{error}");
    assert!(validate(&[Fault::new(FaultKind::Slow)]).is_err());
}

#[test]
fn every_kind_has_one_name_in_files_and_statistics() {
    for kind in FaultKind::ALL {
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
    }
}
