use super::*;

#[test]
fn the_rules_of_this_release_are_rules() {
    let rules = Rules::embedded().unwrap();
    assert!(rules.ids().count() >= 12);
}
