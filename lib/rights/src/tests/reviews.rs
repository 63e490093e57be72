use super::*;
use token::{Ed25519KeyPair, PublicKey, cose};

const AUTHOR: &str = "azote:operator/ann";

fn key(n: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[n; 32]).unwrap()
}

fn reviewers() -> Reviewers {
    let person = |(n, name)| Reviewer { identity: identity(name), key: PublicKey::of(&key(n)) };
    let people =
        [(1, AUTHOR), (2, "azote:operator/bea"), (3, "azote:operator/cid"), (4, "azote:operator/dan")];
    Reviewers { reviewers: people.map(person).to_vec() }
}

fn signed(by: &[(u8, &str)]) -> Review {
    let mut review = Review::new(sources().hash(), None, 1, identity(AUTHOR));
    for (n, name) in by {
        review.sign(&identity(name), &key(*n)).unwrap();
    }
    review
}

fn outcome(review: &Review) -> &'static str {
    review.verify(&reviewers(), &sources().hash()).map_or_else(ReviewRefused::code, |_| "reviewed")
}

#[test]
fn two_people_other_than_the_author_must_sign() {
    let (bea, cid, dan) = ((2, "azote:operator/bea"), (3, "azote:operator/cid"), (4, "azote:operator/dan"));
    assert_eq!(outcome(&signed(&[bea, cid])), "reviewed");
    assert_eq!(outcome(&signed(&[bea, cid, dan])), "reviewed");
    assert_eq!(outcome(&signed(&[])), "review.signatures");
    assert_eq!(outcome(&signed(&[bea])), "review.signatures");
    assert_eq!(outcome(&signed(&[bea, bea])), "review.signatures", "one person twice");
    assert_eq!(
        outcome(&signed(&[(2, "azote:operator/cid"), bea])),
        "review.signatures",
        "under a false name"
    );
    assert_eq!(outcome(&signed(&[bea, (9, "azote:operator/eve")])), "review.signatures", "no reviewer");
    assert_eq!(
        outcome(&signed(&[bea, cid, (9, "azote:operator/dan")])),
        "review.signatures",
        "one bad is too many"
    );
    let refused = signed(&[]).sign(&identity(AUTHOR), &key(1));
    assert_eq!(refused, Err(ReviewRefused::Author));
}

#[test]
fn an_author_who_signs_all_the_same_is_found() {
    let mut review = signed(&[(2, "azote:operator/bea"), (3, "azote:operator/cid")]);
    let statement = review.statement(&identity(AUTHOR)).into_bytes();
    let forged = cose::sign(&key(1), statement, b"azote/rights-review/1").unwrap();
    review.signatures.push(cose::to_base64(&forged));
    assert_eq!(outcome(&review), "review.author");
}

#[test]
fn a_signature_speaks_of_one_change_by_one_author_for_one_purpose() {
    let review = signed(&[(2, "azote:operator/bea"), (3, "azote:operator/cid")]);
    assert_eq!(
        outcome(&Review { author: identity("azote:operator/dan"), ..review.clone() }),
        "review.signatures"
    );
    let other = with_policy("\n").hash();
    assert_ne!(other, sources().hash());
    assert_eq!(outcome(&Review { previous: Some(other), ..review.clone() }), "review.signatures");
    assert_eq!(outcome(&Review { number: 2, ..review.clone() }), "review.signatures");
    assert_eq!(outcome(&Review { set: other, ..review.clone() }), "review.set");
    assert_eq!(review.verify(&reviewers(), &other), Err(ReviewRefused::Set));
    let mut elsewhere = signed(&[(2, "azote:operator/bea")]);
    let statement = elsewhere.statement(&identity("azote:operator/cid")).into_bytes();
    elsewhere.signatures.push(cose::to_base64(&cose::sign(&key(3), statement, b"").unwrap()));
    assert_eq!(outcome(&elsewhere), "review.signatures", "made for another purpose");
}

#[test]
fn a_review_follows_what_is_in_force() {
    let (first, second, third) = (sources().hash(), with_policy("\n").hash(), with_policy("\n\n").hash());
    let review = Review::new(second, Some(first), 7, identity(AUTHOR));
    assert_eq!(review.follows(&first, 6), Ok(()));
    assert_eq!(review.follows(&first, 7), Err(ReviewRefused::Previous), "it was in force, and taken back");
    assert_eq!(review.follows(&second, 7), Ok(()), "it is in force already");
    assert_eq!(review.follows(&third, 6), Err(ReviewRefused::Previous));
    assert_eq!(Review { previous: None, ..review }.follows(&first, 6), Err(ReviewRefused::Previous));
}

#[test]
fn reviews_and_lists_of_reviewers_read_back_and_near_misses_are_refused() {
    let review = signed(&[(2, "azote:operator/bea"), (3, "azote:operator/cid")]);
    let text = serde_json::to_string(&review).unwrap();
    assert_eq!(Review::parse(&text), Ok(review.clone()));
    for bad in
        ["", "{}", &text.replace("\"author\"", "\"writer\""), &text.replace("azote:operator/ann", "ann")]
    {
        assert_eq!(Review::parse(bad), Err(ReviewRefused::Missing), "{bad}");
    }
    assert_eq!(Review::parse(&" ".repeat(70_000)), Err(ReviewRefused::Missing));
    let many = Review { signatures: vec![String::new(); 17], ..review };
    assert_eq!(Review::parse(&serde_json::to_string(&many).unwrap()), Err(ReviewRefused::Signatures));

    let list = toml::to_string(&reviewers()).unwrap();
    assert_eq!(Reviewers::parse(&list), Ok(reviewers()));
    let mut person_twice = reviewers();
    person_twice.reviewers[1].identity = identity("azote:operator/cid");
    let mut key_twice = reviewers();
    key_twice.reviewers[1].key = key_twice.reviewers[2].key;
    let mut machine = reviewers();
    machine.reviewers[1].identity = identity("azote:service/tokens");
    for bad in [person_twice, key_twice, machine] {
        let bad = toml::to_string(&bad).unwrap();
        assert_eq!(Reviewers::parse(&bad), Err(ReviewRefused::Missing), "{bad}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_parsers_panic(text in ".{0,200}") {
        prop_assert!(Review::parse(&text).is_err());
        let _ = Reviewers::parse(&text);
    }
}
