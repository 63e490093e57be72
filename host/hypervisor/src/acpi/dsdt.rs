//! The machine's description in AML.

use super::{Facts, bytes, low};
use crate::{
    devices::power::{Event, S5},
    layout::{COM1, COM1_GSI, ECAM, GED_GSI, GENERATION, MMIO32, PCI_CONFIG, POWER, RTC, SLOTS},
};
use acpi_tables::{
    Aml, AmlSink,
    aml::{
        Acquire, AddressSpace, AddressSpaceCacheable, And, Arg, Device, EISAName, Field, FieldAccessType,
        FieldEntry, FieldLockRule, FieldUpdateRule, IO, If, Interrupt, Local, Memory32Fixed, Method,
        MethodCall, Mutex, Name, Notify, OpRegion, OpRegionSpace, Package, Path, Release, ResourceTemplate,
        Scope, Store, Zero,
    },
};

/// Notifications (ACPI 6.5 §5.6.6): device check, eject request; status changed, of button and generation.
const DEVICE_CHECK: u8 = 1;
const EJECT_REQUEST: u8 = 3;
const CHANGED: u8 = 0x80;
/// The target of an operation whose result is only looked at.
const NOWHERE: Zero = Zero {};

/// AML that is made already.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}

fn path(name: &str) -> Path {
    Path::new(name)
}

fn name(at: &str, value: &dyn Aml) -> Raw {
    Raw(bytes(&Name::new(path(at), value)))
}

fn device(at: &str, children: &[Raw]) -> Raw {
    Raw(bytes(&Device::new(path(at), children.iter().map(|child| child as &dyn Aml).collect())))
}

fn resources(children: Vec<&dyn Aml>) -> Raw {
    name("_CRS", &ResourceTemplate::new(children))
}

fn method(at: &str, arguments: u8, body: Vec<&dyn Aml>) -> Raw {
    Raw(bytes(&Method::new(path(at), arguments, true, body)))
}

/// A resource for the ports of a range.
fn ports(range: &std::ops::Range<u64>) -> IO {
    let (start, len) = (port(range.start), u8::try_from(range.end - range.start).unwrap_or_default());
    IO::new(start, start, 1, len)
}

fn port(address: u64) -> u16 {
    u16::try_from(address).unwrap_or_default()
}

fn slot(number: u8) -> String {
    format!("S{number:03}")
}

fn bit(number: u8) -> u32 {
    1 << (number & 31)
}

/// The body of the DSDT.
pub(super) fn dsdt(facts: &Facts) -> Vec<u8> {
    let mut devices = vec![registers(), root(facts), events(), button()];
    devices.push(board());
    devices.push(device(
        "COM1",
        &[
            name("_HID", &EISAName::new("PNP0501")),
            name("_UID", &0u8),
            resources(vec![&ports(&COM1), &Interrupt::new(true, true, false, false, COM1_GSI)]),
        ],
    ));
    devices.push(device(
        "RTC_",
        &[
            name("_HID", &EISAName::new("PNP0B00")),
            // No interrupt: it has no alarm.
            resources(vec![&ports(&RTC)]),
        ],
    ));
    for uid in (0u8..).take(facts.apic_ids.len()) {
        devices.push(device(&format!("C{uid:03}"), &[name("_HID", &"ACPI0007"), name("_UID", &uid)]));
    }
    let mut body =
        bytes(&Scope::new(path("\\_SB_"), devices.iter().map(|device| device as &dyn Aml).collect()));
    body.extend(bytes(&name("\\_S5_", &Package::new(vec![&S5, &0u8, &0u8, &0u8]))));
    body
}

/// The SSDT with the generation id, where EC2 guests look for it.
pub(super) fn generation() -> Vec<u8> {
    let (address, high) = (low(GENERATION.start), 0u8);
    let device = device(
        "VMGN",
        &[
            name("_HID", &"AMZN0000"),
            name("_CID", &"VM_Gen_Counter"),
            name("_DDN", &"VM_Gen_Counter"),
            name("ADDR", &Package::new(vec![&address, &high])),
        ],
    );
    bytes(&Scope::new(path("\\_SB_"), vec![&device]))
}

/// The registers of [`crate::devices::power`].
fn registers() -> Raw {
    let region =
        OpRegion::new(path("PWRR"), OpRegionSpace::SystemIO, &POWER.start, &(POWER.end - POWER.start));
    let field = |access, entries| {
        bytes(&Field::new(
            path("PWRR"),
            access,
            FieldLockRule::NoLock,
            FieldUpdateRule::WriteAsZeroes,
            entries,
        ))
    };
    let mut raw = bytes(&region);
    raw.extend(field(FieldAccessType::Byte, vec![FieldEntry::Reserved(24), FieldEntry::Named(*b"EVNT", 8)]));
    let words = [*b"FILL", *b"LEAV", *b"EJCT"].map(|word| FieldEntry::Named(word, 32));
    raw.extend(field(FieldAccessType::DWord, [FieldEntry::Reserved(32)].into_iter().chain(words).collect()));
    Raw(raw)
}

/// The PCI root: bus 0, its windows, its slots.
fn root(facts: &Facts) -> Raw {
    let uncached = AddressSpaceCacheable::NotCacheable;
    let mut parts = vec![
        name("_HID", &EISAName::new("PNP0A08")),
        name("_CID", &EISAName::new("PNP0A03")),
        name("_UID", &0u8),
        name("_SEG", &0u8),
        name("_BBN", &0u8),
        resources(vec![
            &AddressSpace::new_bus_number(0u16, 0u16),
            &ports(&PCI_CONFIG),
            &AddressSpace::new_memory(uncached, true, low(MMIO32.start), low(MMIO32.end - 1), None),
            &AddressSpace::new_memory(uncached, true, facts.mmio64.start, facts.mmio64.end - 1, None),
        ]),
        Raw(bytes(&Mutex::new(path("LCK_"), 0))),
    ];
    let mut told = Vec::new();
    for number in SLOTS {
        let eject = Store::new(&Path::new("\\_SB_.EJCT"), &bit(number)).to_raw();
        parts.push(device(
            &slot(number),
            &[
                name("_ADR", &(u32::from(number) << 16)),
                name("_SUN", &number),
                method("_EJ0", 1, vec![&eject]),
            ],
        ));
        let hit = And::new(&NOWHERE, &Arg(0), &bit(number)).to_raw();
        told.push(If::new(&hit, vec![&Notify::new(&path(&slot(number)), &Arg(1))]).to_raw());
    }
    parts.push(method("TELL", 2, told.iter().map(|part| part as &dyn Aml).collect()));
    parts.push(scan());
    device("PCI0", &parts)
}

/// Takes what changed and tells the drivers: first what leaves, then what came.
fn scan() -> Raw {
    let (left, came) = (path("\\_SB_.LEAV"), path("\\_SB_.FILL"));
    let tell = |what: &u8| MethodCall::new(path("TELL"), vec![&Local(0), what]).to_raw();
    method(
        "SCAN",
        0,
        vec![
            &Acquire::new(path("LCK_"), u16::MAX),
            &Store::new(&Local(0), &left),
            &Store::new(&left, &Local(0)),
            &tell(&EJECT_REQUEST),
            &Store::new(&Local(0), &came),
            &Store::new(&came, &Local(0)),
            &tell(&DEVICE_CHECK),
            &Release::new(path("LCK_")),
        ],
    )
}

/// The generic event device (ACPI 6.5 §5.6.9).
fn events() -> Raw {
    let when = |event: Event, then: &dyn Aml| {
        let hit = And::new(&NOWHERE, &Local(0), &(event as u8)).to_raw();
        If::new(&hit, vec![then]).to_raw()
    };
    device(
        "GED_",
        &[
            name("_HID", &"ACPI0013"),
            name("_UID", &0u8),
            resources(vec![&Interrupt::new(true, false, false, false, GED_GSI)]),
            method(
                "_EVT",
                1,
                vec![
                    &Store::new(&Local(0), &path("\\_SB_.EVNT")),
                    &when(Event::Slots, &MethodCall::new(path("\\_SB_.PCI0.SCAN"), Vec::new())),
                    &when(Event::PowerButton, &Notify::new(&path("\\_SB_.PWRB"), &CHANGED)),
                    &when(Event::Generation, &Notify::new(&path("\\_SB_.VMGN"), &CHANGED)),
                ],
            ),
        ],
    )
}

fn button() -> Raw {
    device("PWRB", &[name("_HID", &EISAName::new("PNP0C0C"))])
}

/// What the board itself takes: ECAM and the power registers.
fn board() -> Raw {
    let ecam = Memory32Fixed::new(true, low(ECAM.start), low(ECAM.end - ECAM.start));
    device(
        "MBRD",
        &[
            name("_HID", &EISAName::new("PNP0C02")),
            name("_UID", &0u8),
            resources(vec![&ecam, &ports(&POWER)]),
        ],
    )
}

trait ToRaw: Aml + Sized {
    fn to_raw(&self) -> Raw {
        Raw(bytes(self))
    }
}

impl<T: Aml> ToRaw for T {}
