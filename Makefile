# A front for `cargo xtask`; `make help` lists what both can do.
# A toolchain that tools/bootstrap had to fetch lies here.
export PATH := $(PATH):$(CURDIR)/target/rustup/bin

TASKS := demo test fuzz check prove redteam tamper schemathesis documents guest ci parts

.PHONY: help bench bench-boot bench-door bench-hypervisor guest-linux guest-passthrough guest-tpm guest-attestation $(TASKS)
help:
	@tools/bootstrap && cargo xtask --help

$(TASKS):
	@tools/bootstrap && cargo xtask $@

bench:
	@tools/bootstrap && cargo xtask bench volume

guest-linux:
	@tools/bootstrap && cargo xtask guest linux

guest-passthrough:
	@tools/bootstrap && cargo xtask guest passthrough

guest-tpm:
	@tools/bootstrap && cargo xtask guest tpm

guest-attestation:
	@tools/bootstrap && cargo xtask guest attestation

bench-hypervisor:
	@tools/bootstrap && cargo xtask bench hypervisor

bench-boot:
	@tools/bootstrap && cargo xtask bench boot

bench-door:
	@tools/bootstrap && cargo xtask bench door
