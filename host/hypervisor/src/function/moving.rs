//! A function that goes on in another process.

use super::{Function, FunctionError, Lifeline, PATIENCE, Site, lock};
use crate::pci::{Unfit, bar, msix::MsixState};
use serde::{Deserialize, Serialize};
use std::{
    os::fd::OwnedFd,
    sync::{Arc, Mutex},
};
use vfio_user::{Client, ClientState, Socket, pci::MSIX};

/// A function as it is kept while a machine moves to another process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FunctionState {
    client: ClientState,
    decodes: bool,
    bars: [u32; bar::COUNT],
    msix: Option<MsixState>,
}

impl Function {
    /// What another process needs to go on with the function, and its socket. The card keeps the guest's memory;
    /// its interrupts wait with it until [`Function::resume`] there or [`Function::thaw`] here. `None` if it is gone.
    pub fn freeze(&mut self) -> Option<(FunctionState, Arc<Socket>)> {
        self.with_card(|card| card.disable_irqs(MSIX));
        let msix = self.msix.as_mut().map(|msix| msix.freeze(&*self.site.platform));
        let (client, socket) = self.card.as_ref()?.keep()?;
        let state = FunctionState {
            client,
            decodes: self.decodes,
            bars: std::array::from_fn(|register| self.bars.read(register)),
            msix,
        };
        Some((state, socket))
    }

    /// Goes on here after [`Function::freeze`].
    pub fn thaw(&mut self) {
        if let Some(msix) = &mut self.msix {
            msix.thaw(&*self.site.platform);
        }
        self.give_eventfds();
    }

    /// Goes on with the function of another process.
    pub fn resume(
        socket: OwnedFd,
        state: &FunctionState,
        site: &Arc<Site>,
    ) -> Result<(Arc<Mutex<Self>>, Lifeline), FunctionError> {
        let mut card = Client::resume(socket, state.client.clone());
        card.set_timeout(Some(PATIENCE));
        let lifeline = Lifeline::Card(Arc::downgrade(card.socket()));
        let shared = Self::learn(Box::new(card), site)?;
        let mut function = lock(&shared);
        for (register, value) in state.bars.into_iter().enumerate() {
            function.bars.write(register, value);
        }
        function.decodes = state.decodes;
        function.settle();
        if let (Some(msix), Some(state)) = (&mut function.msix, &state.msix) {
            msix.resume(state, &*site.platform).ok_or(Unfit::Msix)?;
        }
        function.give_eventfds();
        drop(function);
        Ok((shared, lifeline))
    }
}
