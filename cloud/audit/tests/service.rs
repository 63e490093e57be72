//! The real program, a real software TPM, real connections.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

#[path = "../../tokens/tests/house/mod.rs"]
mod house;

use audit::{client, note::Checkpoint};
use house::House;

const PROGRAM: &str = env!("CARGO_BIN_EXE_azote-audit");

#[tokio::test]
async fn it_serves() {
    let house = House::new();
    let audit = house.start(PROGRAM, "audit", &[]);
    std::fs::write(audit.state.join("sources"), "tokens 127.0.0.1:9\n").unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let reader = house.client(&audit, "azote:operator/olga");
    let status = client::status(&reader).await.unwrap();
    let note = client::checkpoint(&reader).await.unwrap();
    let checkpoint =
        Checkpoint::open(&String::from_utf8(note).unwrap(), &status.key.parse().unwrap()).unwrap();
    assert!(checkpoint.size >= 2);
}
