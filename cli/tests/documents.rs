//! What the documents say is in the tree.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    fs,
    path::{Path, PathBuf},
};

fn sources(folder: &Path, found: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            found.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn the_specification_names_tests_that_exist() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = fs::read_to_string(root.join("docs/specification.md")).unwrap();
    let mut code = String::new();
    for folder in ["cli", "cloud", "host", "lab", "lib", "proofs"] {
        sources(&root.join(folder), &mut code);
    }
    let names: Vec<&str> = text.split('`').skip(1).step_by(2).filter(|name| name.contains('_')).collect();
    assert!(names.len() > 30, "the page names its tests: {names:?}");
    // A test is a function, a proof has its name in quotes.
    let known = |name: &str| code.contains(&format!("fn {name}(")) || code.contains(&format!("\"{name}\""));
    let missing: Vec<&&str> = names.iter().filter(|name| !known(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
