use super::*;

#[test]
fn the_schema_file_is_the_one_of_this_release() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../policies/schema.cedarschema");
    let said = "the table of operations changed: `azote rights show --schema > policies/schema.cedarschema`";
    assert!(std::fs::read_to_string(file).unwrap() == schema(), "{said}");
}

#[test]
fn the_shipped_configuration_is_sound() {
    if let Err(error) = Rights::embedded() {
        panic!("{}: {error}", error.code());
    }
}
