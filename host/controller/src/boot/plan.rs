//! What a release and a configuration make of a host: what its starts must measure, what its store and its boot folder
//! hold, and the set that the TPM signs.

use super::{
    compartments::{EARLY, STORE},
    known_good::{ALL, EARLY as EARLY_REGISTERS, Set, Signed},
    sha256,
    start::MAX_CONFIGURATION,
    state::{self, State},
};
use boot_rom::{
    events::{Event, Events, RELEASE, ROM_PCR, ROOT_KEY, STAGE_1_PCR},
    header::{HEADER, Header, SIGNED},
};
use firmware_store::{Change, Store};
use ids::Environment;
use release::{Configuration, Folder, Kind, MANIFEST, Manifest};
use service::process::Failure;
use std::{collections::BTreeMap, path::Path};
use token::PublicKey;
use tpm::{Digest, Limit, NV_FLOOR, SigningKey, Tpm};
use zeroize::Zeroizing;

/// Images that the boot ROM and stage 1 read from the boot folder; all others are in the store.
const STAGES: [Kind; 2] = [Kind::Stage1, Kind::Controller];

/// A release with a configuration.
pub struct Plan {
    /// Who signed both.
    pub root: PublicKey,
    /// The release.
    pub manifest: Manifest,
    /// Its manifest as signed.
    pub signed_manifest: Vec<u8>,
    /// The configuration.
    pub configuration: Configuration,
    /// The same as signed.
    pub signed_configuration: Vec<u8>,
}

/// The root key that a release's stage 1 names. Whether it is this host's, only its fuse says.
pub fn root_key(release: &Path) -> Result<PublicKey, Failure> {
    let path = release.join(Kind::Stage1.name());
    let bytes = state::read(&path, usize::try_from(release::MAX_IMAGE)? + HEADER)?;
    let header =
        bytes.get(..SIGNED).and_then(Header::parse).ok_or("stage 1 has no header of a known format")?;
    let key = PublicKey(header.root_key);
    if key.has_small_order() { Err("stage 1 names no proper root key".into()) } else { Ok(key) }
}

/// Reads a signed configuration.
pub fn configuration(path: &Path, root: &PublicKey) -> Result<(Configuration, Vec<u8>), Failure> {
    let bytes = state::read(path, MAX_CONFIGURATION)?;
    let configuration = Configuration::open(&bytes, root)?;
    super::configuration::Configured::parse(&configuration.text)?;
    Ok((configuration, bytes))
}

impl Plan {
    /// What a start must measure. `chained`: whether it begins with the boot ROM.
    pub fn events(&self, chained: bool) -> Result<Events, Failure> {
        let mut events = Events::new();
        let image =
            |kind: Kind| self.manifest.image(kind).ok_or_else(|| format!("the release has no {kind}"));
        let mut push = |pcr, name: &str, digest: &Digest| -> Result<(), Failure> {
            Ok(events
                .push(Event::new(pcr, name, digest).ok_or("an entry of the event log is out of bounds")?)?)
        };
        if chained {
            push(ROM_PCR, ROOT_KEY, &sha256(&self.root.0))?;
            push(ROM_PCR, Kind::Stage1.event().1, &image(Kind::Stage1)?.sha256)?;
            push(STAGE_1_PCR, RELEASE, &sha256(&self.signed_manifest))?;
            push(STAGE_1_PCR, Kind::Controller.event().1, &image(Kind::Controller)?.sha256)?;
        }
        push(10, "configuration", &sha256(&self.signed_configuration))?;
        [Kind::Policies, Kind::VolumeCard, Kind::MainboardFirmware]
            .map(image)
            .into_iter()
            .collect::<Result<Vec<_>, _>>()?;
        for image in self.manifest.images.iter().filter(|image| !STAGES.contains(&image.kind)) {
            let (pcr, name) = image.kind.event();
            push(pcr, name, &image.sha256)?;
        }
        Ok(events)
    }

    /// The set of it.
    pub fn set(
        &self,
        sequence: u64,
        security_key: bool,
        chained: bool,
        sums: BTreeMap<Digest, Digest>,
    ) -> Result<Set, Failure> {
        Ok(Set {
            sequence,
            svn: self.manifest.svn,
            environment: self.manifest.environment,
            security_key,
            root: self.root,
            configuration: self.configuration.sequence,
            manifest: self.signed_manifest.clone(),
            events: self.events(chained)?,
            sums,
        })
    }

    /// Both are for one environment.
    pub fn environment(&self) -> Result<Environment, Failure> {
        let environment = self.manifest.environment;
        if self.configuration.environment == environment {
            Ok(environment)
        } else {
            Err("release and configuration are for different environments".into())
        }
    }

    /// Writes the configuration and, from a release's folder, the boot folder; the next start still takes the present
    /// one.
    pub fn install(&self, state: &State, folder: Option<&Folder>) -> Result<Digest, Failure> {
        let configuration = sha256(&self.signed_configuration);
        state.install_configuration(&configuration, &self.signed_configuration)?;
        let release = sha256(&self.signed_manifest);
        if let Some(folder) = folder {
            let [stage1, controller] = [folder.image(STAGES[0])?, folder.image(STAGES[1])?];
            let files: [(&str, &[u8]); 3] = [
                (STAGES[0].name(), &stage1),
                (STAGES[1].name(), &controller),
                (MANIFEST, &self.signed_manifest),
            ];
            state.install_boot(&release, &files)?;
        }
        Ok(release)
    }
}

/// Puts a release's images into the store; gives, for each, the hash of its file there.
pub fn put(change: &mut Change<'_>, folder: &Folder) -> Result<BTreeMap<Digest, Digest>, Failure> {
    let images = folder.manifest.images.iter().filter(|image| !STAGES.contains(&image.kind));
    let sums = images.map(|image| {
        let sha256 = change.put(&folder.image(image.kind)?)?;
        Ok((sha256, change.blob(&sha256)?.sum))
    });
    sums.collect()
}

/// What signs sets: both parts are in the store, so that only a host whose store is open signs the next one.
pub struct Signer {
    key: SigningKey,
    auth: Zeroizing<Vec<u8>>,
}

/// Names of the store's secrets.
const SET_KEY: &str = "set key";
const SET_AUTH: &str = "set key authorisation";
const AUTH: usize = 32;

impl Signer {
    /// Makes one.
    pub fn generate(tpm: &mut Tpm) -> Result<Self, Failure> {
        let auth = random()?;
        Ok(Self { key: tpm.create_signing_key(&auth)?, auth })
    }

    /// Its public half, `TPM2B_PUBLIC`.
    pub fn public(&self) -> &[u8] {
        &self.key.public
    }

    /// Keeps it in the store.
    pub fn keep(&self, change: &mut Change<'_>) {
        change.set_secret(SET_KEY, &self.key.private);
        change.set_secret(SET_AUTH, &self.auth);
    }

    /// Takes it out of the store.
    pub fn of(store: &Store, public: &[u8]) -> Result<Self, Failure> {
        let secret = |name| store.secret(name).map(<[u8]>::to_vec).ok_or("the store has no set key");
        let key = SigningKey { public: public.to_vec(), private: secret(SET_KEY)? };
        Ok(Self { key, auth: secret(SET_AUTH)?.into() })
    }

    /// Signs a set, and approves what opens by it while the floor, counted from `base`, is not above its release.
    pub fn sign(&self, tpm: &mut Tpm, set: Set, base: u64) -> Result<Signed, Failure> {
        let body = set.encode().ok_or("the set is out of bounds")?;
        let signature = tpm.sign(&self.key, &self.auth, &Set::message(&body))?;
        let at_most = base.checked_add(set.svn.into()).ok_or("the security version is out of bounds")?;
        let limit = Some(Limit { index: NV_FLOOR, at_most });
        let mut approve = |reference, values| tpm.approve(&self.key, &self.auth, reference, &values, limit);
        let (early, store) = (approve(EARLY, set.values(EARLY_REGISTERS))?, approve(STORE, set.values(ALL))?);
        Ok(Signed { set, signature, early, store })
    }
}

/// A random authorisation value or secret.
pub fn random() -> Result<Zeroizing<Vec<u8>>, Failure> {
    let mut bytes = Zeroizing::new(vec![0; AUTH]);
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| "no random bytes")?;
    Ok(bytes)
}
