//! The monitor: looks at each entry of the audit log as it arrives, by rules that are data, and raises alarms
//! within seconds. It decides nothing, stops nothing and reads nothing by itself: the audit service shows it
//! every entry and carries the alarms. It stands inside the audit service's trust boundary, and everything that
//! it is shown was written by others: what it keeps is bounded, however many subjects there are and whatever
//! they do.
//!
//! [`Monitor`] does no I/O and has no clock of its own. [`Delivery`] sends alarms to a webhook, to Alertmanager
//! and to whatever else is a [`Sink`].
#![forbid(unsafe_code)]

mod alarm;
mod baseline;
mod delivery;
mod engine;
mod http;
mod observation;
mod rules;
mod table;

pub use alarm::{Alarm, Severity};
pub use delivery::{Delivery, Pace, SendError, Sending, Sink, Undelivered};
pub use engine::Monitor;
pub use http::{Alertmanager, SinkError, Webhook, signature};
pub use observation::{Kind, Observation, Quota, Source, UNDELIVERED};
pub use rules::{Rules, RulesError};
