//! The numbers that EC2 publishes, and what holds for any use.

use crate::*;
use proptest::prelude::*;

const HOUR: u64 = 3_600_000_000;

/// Runs at a use of each vCPU given in ten-thousandths.
fn run(credits: &mut Credits, kind: &Burstable, now: &mut u64, hours: u64, percent_of_percent: u64) {
    for _ in 0..hours * 60 {
        *now += HOUR / 60;
        credits.earn(*now);
        credits.spend(HOUR / 60 * u64::from(kind.vcpus) * percent_of_percent / 10_000);
    }
}

#[test]
fn types_earn_and_accrue_what_the_published_table_says() {
    let second = [
        (1, 500, 3_000, 72_000),
        (1, 1_000, 6_000, 144_000),
        (1, 2_000, 12_000, 288_000),
        (2, 2_000, 24_000, 576_000),
        (2, 3_000, 36_000, 864_000),
        (4, 2_250, 54_000, 1_296_000),
        (8, 1_700, 81_600, 1_958_400),
    ];
    let third = [
        (2, 500, 6_000, 144_000),
        (2, 1_000, 12_000, 288_000),
        (2, 2_000, 24_000, 576_000),
        (2, 3_000, 36_000, 864_000),
        (4, 4_000, 96_000, 2_304_000),
        (8, 4_000, 192_000, 4_608_000),
    ];
    for (vcpus, baseline, hourly, maximum) in second {
        let kind = Burstable::second(vcpus, baseline);
        assert_eq!((kind.hourly(), kind.maximum()), (hourly, maximum));
        let launched = Credits::new(kind.clone(), Mode::Standard, None, 0);
        assert_eq!(launched.balance(), u64::from(vcpus) * 30_000);
        assert_eq!(Credits::new(kind, Mode::Unlimited, None, 0).balance(), 0);
    }
    for (vcpus, baseline, hourly, maximum) in third {
        let kind = Burstable::third(vcpus, baseline);
        assert_eq!((kind.hourly(), kind.maximum()), (hourly, maximum));
        assert_eq!(Credits::new(kind, Mode::Standard, None, 0).balance(), 0);
    }
}

/// The published course of a t3.nano: idle for a day, a day at 7 %, which costs 57.6 credits more than it earns.
#[test]
fn a_nano_goes_the_published_way() {
    let kind = Burstable::third(2, 500);
    let (mut credits, mut now) = (Credits::new(kind.clone(), Mode::Standard, None, 0), 0);
    run(&mut credits, &kind, &mut now, 24, 0);
    assert_eq!(credits.balance(), 144_000);
    run(&mut credits, &kind, &mut now, 12, 250);
    // What is earned while it is full is lost, and each minute's use is spent after that minute was earned.
    assert!((143_900..=144_000).contains(&credits.balance()));
    run(&mut credits, &kind, &mut now, 1, 500);
    let before = credits.balance();
    run(&mut credits, &kind, &mut now, 24, 700);
    assert_eq!(before - credits.balance(), 57_600);
}

/// The published course of a t2.micro: 174 after an idle day, never above 144 once launch credits are spent.
#[test]
fn launch_credits_are_spent_first_and_do_not_count_towards_the_limit() {
    let kind = Burstable::second(1, 1_000);
    let (mut credits, mut now) = (Credits::new(kind.clone(), Mode::Standard, None, 0), 0);
    run(&mut credits, &kind, &mut now, 24, 0);
    assert_eq!(credits.balance(), 174_000);
    credits.spend(30 * 60_000_000);
    run(&mut credits, &kind, &mut now, 24, 0);
    assert_eq!(credits.balance(), 144_000);
}

/// A day of surplus is free as long as it is paid down; what exceeds it is charged, and all that is left at the end.
#[test]
fn surplus_is_paid_down_or_charged() {
    let kind = Burstable::third(2, 500);
    let (mut credits, mut now) = (Credits::new(kind.clone(), Mode::Unlimited, None, 0), 0);
    run(&mut credits, &kind, &mut now, 1, 10_000);
    assert_eq!((credits.balance(), credits.surplus(), credits.charged()), (0, 114_000, 0));
    run(&mut credits, &kind, &mut now, 1, 10_000);
    assert_eq!((credits.surplus(), credits.charged()), (144_000, 84_000));
    run(&mut credits, &kind, &mut now, 4, 0);
    assert_eq!((credits.balance(), credits.surplus()), (0, 120_000));
    let mut standard = credits.clone();
    standard.switch(Mode::Standard);
    assert_eq!((standard.surplus(), standard.charged()), (0, 204_000));
    credits.settle();
    assert_eq!((credits.surplus(), credits.charged()), (0, 204_000));
}

#[test]
fn earned_credits_outlast_a_stop_for_seven_days_and_hostile_ones_are_cut() {
    let carried = |balance, days: u64| {
        Some(Carried { balance, stopped_for: std::time::Duration::from_secs(days * 24 * 3600) })
    };
    let after = |kind: Burstable, carried: Option<Carried>| {
        Credits::new(kind, Mode::Unlimited, carried.as_ref(), 0).balance()
    };
    assert_eq!(after(Burstable::third(2, 500), carried(50_000, 7)), 50_000);
    assert_eq!(after(Burstable::third(2, 500), carried(50_000, 8)), 0);
    assert_eq!(after(Burstable::third(2, 500), carried(u64::MAX, 0)), 144_000);
    assert_eq!(after(Burstable::second(2, 500), carried(50_000, 1)), 0);
}

proptest! {
    /// What is spent was earned, given at the launch, or is owed or charged.
    #[test]
    fn no_credit_comes_from_nowhere_and_none_is_lost_but_above_the_limit(
        vcpus in 1..9_u32, baseline in 1..10_000_u32, unlimited: bool, second: bool,
        uses in prop::collection::vec((0..HOUR, 0..11_000_u64), 1..50),
    ) {
        let kind = if second { Burstable::second(vcpus, baseline) } else { Burstable::third(vcpus, baseline) };
        let mode = if unlimited { Mode::Unlimited } else { Mode::Standard };
        let mut credits = Credits::new(kind.clone(), mode, None, 0);
        let launch = u128::from(credits.balance());
        let (mut now, mut spent) = (0, 0_u128);
        for (later, percent_of_percent) in uses {
            now += later;
            credits.earn(now);
            let used = later * u64::from(vcpus) * percent_of_percent / 10_000;
            if let Some(affordable) = credits.affords() && affordable * u64::from(vcpus) < used {
                prop_assert!(credits.wait(used.div_ceil(u64::from(vcpus))) > 0);
                continue;
            }
            credits.spend(used);
            spent += u128::from(used);
            credits.in_bounds();
            if !unlimited {
                prop_assert_eq!((credits.surplus(), credits.charged()), (0, 0));
            }
        }
        // In thousandths of a credit, 60000 vCPU microseconds each; three balances are rounded down.
        let earned = u128::from(now) * u128::from(vcpus) * u128::from(baseline) / 10_000 / 60_000;
        let owed = u128::from(credits.surplus()) + u128::from(credits.charged());
        prop_assert!(spent / 60_000 + u128::from(credits.balance()) <= launch + earned + owed + 3);
    }
}
