//! Version negotiation: what each end can take.

use crate::message::{MAX_FDS, MAX_TRANSFER};
use guest_memory::MAX_MAPS;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// Longest version data that is looked at, in bytes.
const MAX_DATA: usize = 4096;

/// The `capabilities` object. What a peer does not name has the protocol's default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Capabilities {
    #[serde(skip_serializing_if = "Option::is_none")]
    max_msg_fds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_data_xfer_size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_dma_maps: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pgsizes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    write_multiple: Option<bool>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct VersionData {
    capabilities: Capabilities,
}

impl Capabilities {
    /// All that this implementation takes.
    pub(crate) fn ours() -> Self {
        Self {
            max_msg_fds: Some(MAX_FDS as u64),
            max_data_xfer_size: Some(MAX_TRANSFER as u64),
            max_dma_maps: Some(MAX_MAPS as u64),
            pgsizes: Some(4096),
            write_multiple: Some(true),
        }
    }

    /// Reads version data; empty and unterminated data are legal.
    pub(crate) fn parse(data: &[u8]) -> Result<Self, Errno> {
        let text = data.split(|byte| *byte == 0).next().unwrap_or_default();
        if text.is_empty() {
            return Ok(Self::default());
        }
        if text.len() > MAX_DATA {
            return Err(Errno::MSGSIZE);
        }
        serde_json::from_slice(text)
            .map(|VersionData { capabilities }| capabilities)
            .map_err(|_| Errno::INVAL)
    }

    /// Ours, as far as the peer named the same: a reply must not name more.
    pub(crate) fn answer(&self) -> Self {
        let ours = Self::ours();
        Self {
            max_msg_fds: self.max_msg_fds.and(ours.max_msg_fds),
            max_data_xfer_size: self.max_data_xfer_size.and(ours.max_data_xfer_size),
            max_dma_maps: self.max_dma_maps.and(ours.max_dma_maps),
            pgsizes: self.pgsizes.and(ours.pgsizes),
            write_multiple: self.write_multiple.and(ours.write_multiple),
        }
    }

    /// As version data, with the NUL at its end.
    pub(crate) fn to_data(&self) -> Vec<u8> {
        let data = VersionData { capabilities: self.clone() };
        let mut bytes = serde_json::to_vec(&data).unwrap_or_default();
        bytes.push(0);
        bytes
    }

    /// Descriptors that may be sent to this peer in one message.
    pub(crate) fn fds(&self) -> usize {
        usize::try_from(self.max_msg_fds.unwrap_or(1)).unwrap_or(usize::MAX).min(MAX_FDS)
    }

    /// Bytes that one region access to this peer may carry.
    pub(crate) fn transfer(&self) -> usize {
        let named = self.max_data_xfer_size.unwrap_or(1024 * 1024);
        usize::try_from(named).unwrap_or(usize::MAX).min(MAX_TRANSFER)
    }
}
