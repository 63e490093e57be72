//! The tenant's console key, and which machine it believes. Both lie in the folder of the identities: the key as 32
//! bytes that only its owner can read, the machine's public key in base64url.

use crate::{
    failure::{Doing, Failure},
    place::Place,
};
use ids::InstanceId;
use seal::{
    PUBLIC_KEY_SIZE, Secret,
    console::{ConsoleKey, Tenant},
};
use std::{
    fs::{self, File},
    io::{self, ErrorKind, Read},
    path::PathBuf,
};

/// Where they lie.
pub(super) struct Keys(PathBuf);

impl Keys {
    /// Those of an installation.
    pub(super) fn of(place: &Place) -> Self {
        Self(place.path("identities"))
    }

    fn key(&self) -> PathBuf {
        self.0.join("tenant-console.key")
    }

    fn machine(&self, instance: &InstanceId) -> PathBuf {
        self.0.join(format!("{instance}.machine"))
    }

    /// The key, which is made if there is none.
    pub(super) fn read_or_make(&self) -> Result<ConsoleKey, Failure> {
        let path = self.key();
        if let Some(key) = self.read()? {
            return Ok(key);
        }
        let key = ConsoleKey::generate()?;
        let new = path.with_extension(format!("new-{}", std::process::id()));
        service::write_atomic(&new, key.private_key().expose()).doing(new.display())?;
        // Whoever makes one at this moment too must end up with the same.
        let linked = fs::hard_link(&new, &path);
        fs::remove_file(&new).doing(new.display())?;
        match linked {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error).doing(path.display()),
            _ => self.read()?.ok_or_else(|| Failure::state("the tenant's console key is gone")),
        }
    }

    fn read(&self) -> Result<Option<ConsoleKey>, Failure> {
        let path = self.key();
        let mut file = match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened.doing(path.display())?,
        };
        let mut private = Secret::<PUBLIC_KEY_SIZE>::zeroed().map_err(Failure::state)?;
        file.read_exact(private.expose_mut()).doing(path.display())?;
        Ok(Some(ConsoleKey::from_private(private)?))
    }

    /// The tenant's side of an instance's console; it believes the machine that it heard before, unless it shall
    /// `trust` anew.
    pub(super) fn tenant(&self, instance: &InstanceId, trust: bool) -> Result<Tenant, Failure> {
        let key = self.read()?.ok_or_else(|| {
            let message = "the tenant has no console key here: start the instance from this state folder";
            Failure::Advice("console.none", message.to_owned())
        })?;
        let mut tenant = Tenant::with_key(instance.clone(), key);
        if !trust {
            tenant.trust(self.believed(instance)?);
        }
        Ok(tenant)
    }

    fn believed(&self, instance: &InstanceId) -> Result<Option<[u8; PUBLIC_KEY_SIZE]>, Failure> {
        let path = self.machine(instance);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            read => read.doing(path.display())?,
        };
        let damaged = |_| Failure::State(format!("{} is damaged: `--trust` makes it anew", path.display()));
        Ok(Some(text.trim().parse::<host_api::ConsoleKey>().map_err(damaged)?.to_bytes()))
    }

    /// Writes down the machine that the tenant believes from now on.
    pub(super) fn remember(
        &self,
        instance: &InstanceId,
        machine: &[u8; PUBLIC_KEY_SIZE],
    ) -> Result<(), Failure> {
        let path = self.machine(instance);
        let text = format!("{}\n", host_api::ConsoleKey::from_bytes(machine));
        service::write_atomic(&path, text.as_bytes()).doing(path.display())
    }

    /// The instance is gone.
    pub(super) fn forget(&self, instance: &InstanceId) -> Result<(), Failure> {
        let path = self.machine(instance);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err::<(), io::Error>(error).doing(path.display())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use seal::console::seal_output;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_key_is_made_once_and_private() {
        let scratch = tempfile::tempdir().unwrap();
        let keys = Keys(scratch.path().to_owned());
        let instance = InstanceId::from_random(1);
        assert_eq!(keys.tenant(&instance, false).err().unwrap().code(), "console.none");
        let first = *keys.read_or_make().unwrap().public();
        assert_eq!(*keys.read_or_make().unwrap().public(), first);
        assert_eq!(fs::metadata(keys.key()).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 1, "nothing else stays");
        fs::write(keys.key(), [1; 31]).unwrap();
        assert!(keys.read_or_make().is_err(), "a damaged key is not replaced");
    }

    #[test]
    fn the_machine_of_before_is_believed_until_told_otherwise() {
        let scratch = tempfile::tempdir().unwrap();
        let keys = Keys(scratch.path().to_owned());
        let instance = InstanceId::from_random(1);
        let public = *keys.read_or_make().unwrap().public();
        let [first, second] = [(); 2].map(|()| ConsoleKey::generate().unwrap());
        let says = |machine: &ConsoleKey| seal_output(machine, &public, &instance, 0, 0, b"ok").unwrap();
        let mut tenant = keys.tenant(&instance, false).unwrap();
        tenant.open(2, &says(&first)).unwrap();
        keys.remember(&instance, tenant.machine().unwrap()).unwrap();
        let mut again = keys.tenant(&instance, false).unwrap();
        assert_eq!(again.open(2, &says(&second)).unwrap_err().code(), "console.machine");
        assert_eq!(again.open(2, &says(&first)).unwrap().bytes, b"ok");
        let mut anew = keys.tenant(&instance, true).unwrap();
        assert_eq!(anew.open(2, &says(&second)).unwrap().bytes, b"ok");
        keys.forget(&instance).unwrap();
        keys.forget(&instance).unwrap();
        assert_eq!(keys.tenant(&instance, false).unwrap().machine(), None);
    }
}
