use proptest::prelude::*;

use super::*;

fn targets(count: usize) -> Vec<Rules> {
    vec![Rules::TARGET; count]
}

#[test]
fn a_failing_first_rung_leaves_one_attempt_for_each_rung_below() {
    let mut ladder = Ladder::new(targets(3), 5).unwrap();
    let mut on_rung = [0; 3];
    while let Some(rung) = ladder.rung() {
        while ladder.may_attempt() {
            on_rung[rung] += 1;
            ladder.count_attempt(rung);
        }
        ladder.fall(Cause::AttemptsSpent);
    }
    assert_eq!(on_rung, [3, 1, 1]);
}

#[test]
fn a_rung_makes_no_more_than_its_own_attempts_and_keeps_those_of_the_rungs_below() {
    let own = |attempts| Rules {
        attempts: Some(attempts),
        ..Rules::TARGET
    };
    let rules = vec![own(4), own(2), Rules::STAND_IN];
    let mut ladder = Ladder::new(rules, 5).unwrap();
    let mut on_rung = [0; 3];
    while let Some(rung) = ladder.rung() {
        while ladder.may_attempt() {
            on_rung[rung] += 1;
            ladder.count_attempt(rung);
        }
        ladder.fall(Cause::AttemptsSpent);
        if ladder.rung() == Some(2) {
            break;
        }
    }
    assert_eq!(on_rung, [3, 2, 0]);
}

#[test]
fn a_call_of_one_attempt_makes_one_on_each_target_that_takes_over() {
    let refused = Rules {
        led_to_by: Causes::of(&[Cause::Refused]),
        ..Rules::TARGET
    };
    let rules = vec![Rules::TARGET, refused, Rules::TARGET, Rules::STAND_IN];
    let mut ladder = Ladder::new(rules, 1).unwrap();
    assert!(ladder.may_attempt());
    ladder.count_attempt(0);
    assert!(!ladder.may_attempt());
    let mut refused = ladder.clone();
    assert_eq!(ladder.fall(Cause::AttemptsSpent), Some(2));
    assert!(ladder.may_attempt());
    ladder.count_attempt(2);
    assert_eq!((ladder.may_attempt(), ladder.attempts_made()), (false, 2));
    // One that is led to by something else gets its attempt too, and takes none of the others'.
    for (rung, cause) in [(1, Cause::Refused), (2, Cause::AttemptsSpent)] {
        assert_eq!(refused.fall(cause), Some(rung));
        assert!(refused.may_attempt(), "{rung}");
        refused.count_attempt(rung);
        assert!(!refused.may_attempt(), "{rung}");
    }
    assert_eq!(refused.attempts_left(), 0);
}

#[test]
fn each_target_gets_one_attempt_where_those_below_are_to_have_more_than_there_are() {
    let own = |attempts| Rules {
        attempts: Some(attempts),
        ..Rules::TARGET
    };
    let mut ladder = Ladder::new(vec![Rules::TARGET, own(3), own(3)], 4).unwrap();
    let mut on_rung = [0; 3];
    while let Some(rung) = ladder.rung() {
        while ladder.may_attempt() {
            on_rung[rung] += 1;
            ladder.count_attempt(rung);
        }
        ladder.fall(Cause::AttemptsSpent);
    }
    assert_eq!(on_rung, [1, 1, 2]);
}

#[test]
fn a_rung_that_was_waited_for_gets_the_last_attempt() {
    let mut ladder = Ladder::new(targets(2), 5).unwrap();
    assert_eq!(ladder.fall(Cause::BreakerOpen), Some(1));
    for _ in 0..4 {
        ladder.count_attempt(1);
    }
    assert_eq!(ladder.fall(Cause::BreakerOpen), None);
    ladder.stand_on(0);
    assert!(ladder.may_attempt());
    assert_eq!(ladder.fall(Cause::AttemptsSpent), Some(1));
    ladder.stand_on(0);
    ladder.count_attempt(0);
    assert!(!ladder.may_attempt());
}

#[test]
fn an_attempt_beside_is_one_of_the_calls_and_of_its_rungs() {
    let own = |attempts| Rules {
        attempts: Some(attempts),
        ..Rules::TARGET
    };
    let beside = |rules: Vec<Rules>, attempts, rung| {
        let ladder = Ladder::new(rules, attempts).unwrap();
        ladder.may_attempt_beside(rung)
    };
    assert!(!beside(targets(1), 1, 0) && beside(targets(1), 2, 0));
    assert!(!beside(vec![own(1)], 5, 0));
    // What is kept for the target below is its own.
    assert!(!beside(targets(2), 2, 0) && beside(targets(2), 3, 0));
    assert!(beside(targets(2), 1, 1));
    let mut ladder = Ladder::new(vec![Rules::TARGET, own(2)], 5).unwrap();
    ladder.count_attempt(1);
    ladder.count_attempt(0);
    assert_eq!((ladder.attempts_on(0), ladder.attempts_on(1)), (2, 1));
}

#[test]
fn a_rung_that_has_given_its_last_word_is_not_come_to_again() {
    for (cause, and_others) in [(Cause::Refused, false), (Cause::Credential, true)] {
        let mut ladder = Ladder::new(targets(3), 5).unwrap();
        ladder.close(1, cause);
        let expected = (!and_others).then_some(2);
        assert_eq!(ladder.fall(Cause::AttemptsSpent), expected, "{cause}");
    }
    let mut ladder = Ladder::new(targets(2), 5).unwrap();
    ladder.fall(Cause::BreakerOpen);
    ladder.fall(Cause::NotFound);
    ladder.stand_on(0);
    assert_eq!(ladder.fall(Cause::AttemptsSpent), None);
}

#[test]
fn a_cause_leads_to_the_next_rung_that_takes_it() {
    let on = |causes: &[Cause]| Rules {
        led_to_by: Causes::of(causes),
        ..Rules::TARGET
    };
    let rules = vec![
        Rules::TARGET,
        on(&[Cause::Refused]),
        on(&[Cause::BreakerOpen, Cause::Overloaded]),
    ];
    for (cause, expected) in [
        (Cause::Refused, Some(1)),
        (Cause::BreakerOpen, Some(2)),
        (Cause::Overloaded, Some(2)),
        (Cause::AttemptsSpent, None),
        (Cause::Quota, None),
    ] {
        let mut ladder = Ladder::new(rules.clone(), 5).unwrap();
        assert_eq!(ladder.leads_to(cause), expected, "{cause}");
        assert_eq!(ladder.fall(cause), expected, "{cause}");
        assert_eq!(ladder.rung(), expected, "{cause}");
    }
}

#[test]
fn what_is_too_large_goes_only_where_there_is_more_room_and_stays_too_large() {
    let room = |room| Rules {
        room,
        ..Rules::TARGET
    };
    let rules = vec![
        room(Some(200)),
        room(None),
        room(Some(200)),
        room(Some(1_000)),
    ];
    let mut ladder = Ladder::new(rules, 5).unwrap();
    assert_eq!(ladder.fall(Cause::TooLarge), Some(3));
    assert!(!ladder.is_open(0) && !ladder.is_open(1) && !ladder.is_open(2));
    assert_eq!(ladder.fall(Cause::TooLarge), None);
}

#[test]
fn a_refused_credential_is_not_tried_again_further_down() {
    let with = |credential| Rules {
        credential,
        ..Rules::TARGET
    };
    let rules = vec![with(7), with(7), with(8), with(7)];
    let mut ladder = Ladder::new(rules, 5).unwrap();
    assert_eq!(ladder.fall(Cause::Credential), Some(2));
    assert_eq!(ladder.fall(Cause::AttemptsSpent), None);
    let alone = Ladder::new(vec![with(7), with(7)], 5).unwrap();
    assert_eq!(alone.leads_to(Cause::Credential), None);
}

#[test]
fn an_unfit_rung_is_passed_by_at_the_top_and_below() {
    let unfit = Rules {
        unfit: Some("cannot_images"),
        ..Rules::TARGET
    };
    let mut ladder = Ladder::new(vec![unfit, Rules::TARGET, unfit, Rules::STAND_IN], 5).unwrap();
    assert_eq!(ladder.rung(), Some(1));
    assert_eq!(ladder.fall(Cause::BreakerOpen), Some(3));
    assert_eq!(Ladder::new(vec![unfit], 5).unwrap().rung(), None);
}

#[test]
fn a_stand_in_with_nothing_to_say_is_left_on_the_way_on_which_it_was_come_to() {
    let last = Rules {
        led_to_by: Causes::LAST,
        ..Rules::STAND_IN
    };
    let rules = vec![Rules::STAND_IN, Rules::TARGET, Rules::STAND_IN, last];
    let mut ladder = Ladder::new(rules, 5).unwrap();
    assert_eq!(ladder.pass_by(None), Some(1));
    assert_eq!(ladder.fall(Cause::BreakerOpen), Some(2));
    assert_eq!(ladder.pass_by(Some(Cause::BreakerOpen)), None);
    assert_eq!(ladder.last_resorts().collect::<Vec<_>>(), [0, 2, 3]);
}

#[test]
fn what_a_ladder_refuses_names_the_setting() {
    let field = |rules: Vec<Rules>, attempts| Ladder::new(rules, attempts).unwrap_err().field;
    assert_eq!(field(Vec::new(), 5), "ladder");
    assert_eq!(field(targets(17), 5), "ladder");
    assert_eq!(field(targets(1), 0), "retry.attempts");
    let odd = |attempts, share| {
        vec![Rules {
            attempts,
            share,
            ..Rules::TARGET
        }]
    };
    assert_eq!(field(odd(Some(0), None), 5), "rung.attempts");
    assert_eq!(field(odd(None, Some(0.0)), 5), "rung.share");
    assert_eq!(field(odd(None, Some(f64::NAN)), 5), "rung.share");
}

proptest! {
    #[test]
    fn attempts_never_exceed_the_calls_own_or_one_a_target(rungs in 1_usize..=16, attempts in 1_u32..=100) {
        let mut ladder = Ladder::new(targets(rungs), attempts).unwrap();
        let mut made = 0;
        while let Some(rung) = ladder.rung() {
            while ladder.may_attempt() {
                made += 1;
                ladder.count_attempt(rung);
            }
            ladder.fall(Cause::AttemptsSpent);
        }
        prop_assert_eq!(made, attempts.max(u32::try_from(rungs).unwrap()));
    }

    #[test]
    fn every_fall_leads_down_to_a_rung_that_takes_its_cause(
        sets in prop::collection::vec(0_u16..512, 1..=16),
        falls in prop::collection::vec(0_usize..9, 0..40),
    ) {
        let rules: Vec<Rules> = sets.iter().map(|bits| Rules {
            led_to_by: Cause::ALL.into_iter().enumerate()
                .filter(|(n, _)| bits & (1 << n) != 0).map(|(_, cause)| cause).collect(),
            credential: u64::from(*bits) % 3,
            room: Some(u64::from(*bits)),
            ..Rules::TARGET
        }).collect();
        let mut ladder = Ladder::new(rules.clone(), 5).unwrap();
        for fall in falls {
            let Some(from) = ladder.rung() else { break };
            let cause = Cause::ALL[fall];
            let foreseen = ladder.leads_to(cause);
            prop_assert_eq!(ladder.fall(cause), foreseen);
            if let Some(to) = ladder.rung() {
                prop_assert!(to > from && rules[to].led_to_by.contains(cause));
                prop_assert!(cause != Cause::TooLarge || rules[to].room > rules[from].room);
                prop_assert!(cause != Cause::Credential || rules[to].credential != rules[from].credential);
            }
        }
    }
}
