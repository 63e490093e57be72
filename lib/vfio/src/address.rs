//! Where a function is on the machine's PCI buses.

use std::{fmt, str::FromStr};

/// Domain, bus, device and function, as `0000:03:00.1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

/// Not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a PCI address is written like 0000:03:00.1: domain, bus, device, function in lower-case hexadecimal"
)]
pub struct AddressError;

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, bus, device, function } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function:x}")
    }
}

impl FromStr for PciAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let parse = || {
            let mut parts = text.splitn(3, ':');
            let (domain, bus) = (parts.next()?, parts.next()?);
            let (device, function) = parts.next()?.split_once('.')?;
            let byte = |text| u8::from_str_radix(text, 16).ok();
            let address = Self {
                domain: u32::from_str_radix(domain, 16).ok()?,
                bus: byte(bus)?,
                device: byte(device).filter(|device| *device < 32)?,
                function: byte(function).filter(|function| *function < 8)?,
            };
            // One way to write each: it becomes a part of paths.
            (address.to_string() == text).then_some(address)
        };
        parse().ok_or(AddressError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_address_is_written_in_one_way() {
        for good in ["0000:03:00.1", "10000:ff:1f.7"] {
            assert_eq!(good.parse::<PciAddress>().unwrap().to_string(), good);
        }
        for bad in
            ["", "03:00.1", "0000:03:00", "0000:03:20.0", "0000:03:00.8", "0000:3:00.1", "0000:03:00.1\n"]
        {
            assert_eq!(bad.parse::<PciAddress>(), Err(AddressError), "{bad:?}");
        }
        for bad in ["../0000:03:00.1", "0000:03:00.1/..", "+000:03:00.1", "0000:0A:00.1"] {
            assert_eq!(bad.parse::<PciAddress>(), Err(AddressError), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_was_written(text in ".{0,16}") {
            if let Ok(address) = text.parse::<PciAddress>() {
                prop_assert_eq!(address.to_string(), text);
            }
        }
    }
}
