//! Tokens whose signature was found good a moment ago: checking it again would say the same.

use crate::Claims;
use std::{
    collections::HashMap,
    fmt, mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Tokens of one generation; two generations are kept.
const GENERATION: usize = 512;

/// The last 512 to 1024 different tokens with what they say. It belongs to one set of keys.
#[derive(Clone, Default)]
pub(crate) struct Verified(Arc<Mutex<Generations>>);

#[derive(Default)]
struct Generations {
    young: HashMap<Box<str>, Arc<Claims>>,
    old: HashMap<Box<str>, Arc<Claims>>,
}

impl Verified {
    /// What a token says that was verified before.
    pub(crate) fn get(&self, token: &str) -> Option<Arc<Claims>> {
        let mut kept = self.lock();
        if let Some(claims) = kept.young.get(token) {
            return Some(claims.clone());
        }
        let (token, claims) = kept.old.remove_entry(token)?;
        kept.add(token, claims.clone());
        Some(claims)
    }

    /// Keeps a token whose signature is good.
    pub(crate) fn add(&self, token: &str, claims: &Claims) {
        self.lock().add(token.into(), Arc::new(claims.clone()));
    }

    fn lock(&self) -> MutexGuard<'_, Generations> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Generations {
    fn add(&mut self, token: Box<str>, claims: Arc<Claims>) {
        if self.young.len() >= GENERATION {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(token, claims);
    }
}

impl fmt::Debug for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verified")
    }
}

#[cfg(test)]
impl Verified {
    pub(crate) fn count(&self) -> usize {
        let kept = self.lock();
        kept.young.len() + kept.old.len()
    }
}
