use super::*;

/// A register as the TPM has it: SHA-256 over the old value and the digest.
#[derive(Default)]
struct Software([u8; 32]);

impl Register for Software {
    fn extend(&mut self, digest: [u8; 32]) -> Result<(), tpm::Error> {
        self.0 = sha256(&[self.0, digest].concat());
        Ok(())
    }

    fn value(&mut self) -> Result<[u8; 32], tpm::Error> {
        Ok(self.0)
    }
}

#[test]
fn the_list_of_measurements_replays_to_the_registers_value() {
    let mut boot = Boot::new(Software::default());
    boot.measure("controller", b"program").unwrap();
    boot.measure("configuration", b"settings").unwrap();
    boot.measure_digest("firmware", [7; 32]).unwrap();
    let (measurements, value) = boot.finish().unwrap();
    let names: Vec<_> = measurements.iter().map(|m| m.what.as_str()).collect();
    assert_eq!(names, ["controller", "configuration", "firmware"]);
    let list: Vec<_> = measurements
        .iter()
        .map(|measured| tpm::Measurement {
            pcr: PCR,
            digest: measured.sha256.to_digest(),
            description: measured.what.to_string(),
        })
        .collect();
    assert_eq!(Sha256::from_digest(&tpm::replay(&list).unwrap()[&PCR]), value);
}

#[test]
fn known_good_is_read_strictly() {
    let hash = "0123456789abcdef".repeat(4);
    let known = KnownGood::parse(&format!("# firmware\n\n{hash}  OVMF_CODE.fd\n")).unwrap();
    assert_eq!(known.name_of(&hash.parse().unwrap()).unwrap().as_str(), "OVMF_CODE.fd");
    assert!(known.name_of(&Sha256::from_digest(&[0; 32])).is_none());
    let upper = hash.to_uppercase();
    for text in
        ["", "# nothing\n", &hash, &format!("{upper} x"), &format!("{hash} good\nnonsense\n"), "* any"]
    {
        assert!(KnownGood::parse(text).is_none(), "{text}");
    }
}
