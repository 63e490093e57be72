//! The 16550 of the console. What the guest writes goes to the tenant's [`Output`]; what the tenant types waits in
//! the receive buffer, which holds 64 bytes.

use crate::{bus::Device, console::Output, irq::Platform, layout::COM1_GSI};
use std::{
    convert::Infallible,
    io::{self, Write},
    sync::Arc,
};
use vm_superio::{
    Trigger,
    serial::{NoEvents, SerialState},
};

struct Line(Arc<dyn Platform>);

impl Trigger for Line {
    type E = Infallible;

    /// The interrupt is edge triggered.
    fn trigger(&self) -> Result<(), Infallible> {
        self.0.line(COM1_GSI, true);
        self.0.line(COM1_GSI, false);
        Ok(())
    }
}

struct Out(Box<dyn Output>);

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.put(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The first serial port.
pub struct Serial(vm_superio::Serial<Line, NoEvents, Out>);

impl Serial {
    /// As after power on.
    pub fn new(platform: Arc<dyn Platform>, output: Box<dyn Output>) -> Self {
        Self(vm_superio::Serial::new(Line(platform), Out(output)))
    }

    /// Takes what the tenant types; says how many bytes, from the start, the guest had room for.
    pub fn input(&mut self, bytes: &[u8]) -> usize {
        let room = bytes.len().min(self.0.fifo_capacity());
        bytes.get(..room).and_then(|bytes| self.0.enqueue_raw_bytes(bytes).ok()).unwrap_or_default()
    }

    /// Registers and receive buffer, in an order that only [`Serial::restore`] knows.
    pub fn state(&self) -> Vec<u8> {
        let SerialState {
            baud_divisor_low,
            baud_divisor_high,
            interrupt_enable,
            interrupt_identification,
            line_control,
            line_status,
            modem_control,
            modem_status,
            scratch,
            in_buffer,
        } = self.0.state();
        let registers = [
            baud_divisor_low,
            baud_divisor_high,
            interrupt_enable,
            interrupt_identification,
            line_control,
            line_status,
            modem_control,
            modem_status,
            scratch,
        ];
        registers.into_iter().chain(in_buffer).collect()
    }

    /// Goes on with the [`Serial::state`] of another process; `None` if that is none.
    pub fn restore(platform: Arc<dyn Platform>, output: Box<dyn Output>, state: &[u8]) -> Option<Self> {
        let (registers, input) = state.split_first_chunk::<9>()?;
        let [low, high, enable, identification, line_control, line_status, control, status, scratch] =
            *registers;
        let state = SerialState {
            baud_divisor_low: low,
            baud_divisor_high: high,
            interrupt_enable: enable,
            interrupt_identification: identification,
            line_control,
            line_status,
            modem_control: control,
            modem_status: status,
            scratch,
            in_buffer: input.to_vec(),
        };
        vm_superio::Serial::from_state(&state, Line(platform), NoEvents, Out(output)).ok().map(Self)
    }
}

impl Device for Serial {
    /// Ports one after the other, as the bus of an ISA board splits wider accesses.
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        for (byte, offset) in data.iter_mut().zip(offset..) {
            *byte = self.0.read(u8::try_from(offset).unwrap_or(u8::MAX));
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        for (byte, offset) in data.iter().zip(offset..) {
            // It fails only if its output does, which does not.
            let _ = self.0.write(u8::try_from(offset).unwrap_or(u8::MAX), *byte);
        }
    }
}
