//! Calls of the key service, typed. Names are those of AWS KMS where the meaning is.

use crate::EncryptionContext;
use attest::{Evidence, LaunchPolicy, NONCE};
use ids::{GrantId, HostId, Identity, InstanceId, KeyId, Name, VolumeId};
use serde::{Deserialize, Serialize};
use service::{CallError, Client};

/// Length of a volume key in bytes.
const VOLUME_KEY: u16 = 64;
/// How long the grant for one attach is good, in seconds.
const ATTACH: u32 = 15 * 60;

pub use attest::Bytes;

/// What whoever may use a grant shows with its request. Not printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GrantToken(pub String);

impl std::fmt::Debug for GrantToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("GrantToken(..)")
    }
}

impl std::ops::Deref for GrantToken {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

macro_rules! messages {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* })*) => {
        $($(#[$doc])*
        #[derive(Debug, Clone, Serialize, Deserialize)]
        #[serde(rename_all = "PascalCase", deny_unknown_fields)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)* })*
    };
}

messages! {
    /// Makes a customer key that the caller, a tenant, owns.
    CreateKey {}
    /// Tells about a key of the caller's.
    DescribeKey {
        /// Which.
        key_id: KeyId,
    }
    /// A customer key.
    KeyDescription {
        /// Its id.
        key_id: KeyId,
        /// Whose it is.
        owner: Identity,
        /// When it was made, Unix seconds.
        created: u64,
    }
    /// Makes a data key under a key of the caller's, and gives its ciphertext alone.
    GenerateDataKeyWithoutPlaintext {
        /// Under which key.
        key_id: KeyId,
        /// How long, 1 to [`crate::MAX_DATA_KEY`]; a volume key has 64.
        number_of_bytes: u16,
        /// Without which the ciphertext shall not open.
        encryption_context: EncryptionContext,
    }
    /// A data key's ciphertext.
    DataKey {
        /// Under which key.
        key_id: KeyId,
        /// Names its key; opens only here.
        ciphertext_blob: Bytes,
    }
    /// Lets the control plane have data keys of the caller's key opened for one host; or lets the caller's importer
    /// have one opened, once.
    CreateGrant {
        /// Of which key.
        key_id: KeyId,
        /// For the cards of which host; or which importer, that of the caller.
        grantee: Identity,
        /// What for: a host decrypts, an importer imports.
        operations: Vec<GrantOperation>,
        /// What the host must show that it is, beside what this service demands of every host.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        launch: Option<LaunchPolicy>,
        /// Pairs that the encryption context must contain; `aws:ebs:id` among them.
        constraint: EncryptionContext,
        /// For which instance, if that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        instance: Option<InstanceId>,
        /// For how many seconds, 1 to [`crate::MAX_GRANT_LIFE`].
        seconds: u32,
    }
    /// A grant.
    Grant {
        /// Its id, no secret.
        grant_id: GrantId,
        /// Until when it is good, Unix seconds.
        expires: u64,
        /// Whoever may ask for the operation shows this with it.
        grant_token: GrantToken,
    }
    /// Asks for a nonce, for evidence of a host.
    AttestationNonce {
        /// Which host will be asked.
        host: HostId,
    }
    /// A nonce: good for one [`DecryptForRecipient`] for this host.
    Nonce {
        /// 32 random bytes.
        nonce: Bytes,
        /// Until when it is good, Unix seconds.
        expires: u64,
    }
    /// A grant that is no more.
    GrantRetired {
        /// Its id.
        grant_id: GrantId,
    }
    /// Opens a volume key by a grant and seals it to a card of the grant's host, or to that of an importer.
    DecryptForRecipient {
        /// The volume key.
        ciphertext_blob: Bytes,
        /// As it was when the key was made; names the volume.
        encryption_context: EncryptionContext,
        /// From [`Grant`].
        grant_token: GrantToken,
        /// The card's (`token::CardKeyCertificate`).
        card_key_certificate: Bytes,
        /// Whose card it is.
        recipient: Recipient,
    }
    /// A volume key that one card can open.
    SealedKey {
        /// Under which key it was.
        key_id: KeyId,
        /// For which host, or for which name of the importer's card.
        host: HostId,
        /// As `seal::CardKey::open` takes it.
        sealed_key: Bytes,
    }
}

/// What a grant can be for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum GrantOperation {
    /// [`DecryptForRecipient`] for a card of a host.
    Decrypt,
    /// [`DecryptForRecipient`] for the card of an importer, once.
    Import,
}

/// Who certifies the card that a key is sealed to.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Recipient {
    /// A host: it shows that it is what it should be.
    #[serde(rename_all = "PascalCase")]
    Host {
        /// From [`Nonce`].
        nonce: Bytes,
        /// The host's answer to `AttestHost` with that nonce.
        evidence: Box<Evidence>,
    },
    /// The machine of the key's owner on which an image is encrypted.
    #[serde(rename_all = "PascalCase")]
    Importer {
        /// Its certificate chain, PEM.
        certificate: String,
    },
}

/// Ends a grant.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RetireGrant {
    /// By its key's owner.
    #[serde(rename_all = "PascalCase")]
    ById {
        /// Of which key.
        key_id: KeyId,
        /// Which grant.
        grant_id: GrantId,
    },
    /// By who holds its token.
    #[serde(rename_all = "PascalCase")]
    ByToken {
        /// From [`Grant`].
        grant_token: GrantToken,
    },
}

pub(crate) const CREATE_KEY: &str = "/v1/CreateKey";
pub(crate) const DESCRIBE_KEY: &str = "/v1/DescribeKey";
pub(crate) const GENERATE_DATA_KEY: &str = "/v1/GenerateDataKeyWithoutPlaintext";
pub(crate) const CREATE_GRANT: &str = "/v1/CreateGrant";
pub(crate) const RETIRE_GRANT: &str = "/v1/RetireGrant";
pub(crate) const ATTESTATION_NONCE: &str = "/v1/AttestationNonce";
pub(crate) const DECRYPT: &str = "/v1/DecryptForRecipient";

/// Makes a customer key; the caller, a tenant, owns it.
pub async fn create_key(client: &Client) -> Result<KeyDescription, CallError> {
    client.post(CREATE_KEY, &CreateKey {}).await
}

/// Tells about a key of the caller's.
pub async fn describe_key(client: &Client, key: &KeyId) -> Result<KeyDescription, CallError> {
    client.post(DESCRIBE_KEY, &DescribeKey { key_id: key.clone() }).await
}

/// Makes the key of a volume under a key of the caller's; gives its ciphertext.
pub async fn generate_volume_key(
    client: &Client,
    key: &KeyId,
    volume: &VolumeId,
) -> Result<Vec<u8>, CallError> {
    let request = GenerateDataKeyWithoutPlaintext {
        key_id: key.clone(),
        number_of_bytes: VOLUME_KEY,
        encryption_context: EncryptionContext::of_volume(volume),
    };
    Ok(client.post::<_, DataKey>(GENERATE_DATA_KEY, &request).await?.ciphertext_blob.0)
}

/// Lets the key of one volume be opened for one host, for as long as an attach may take, if the host is also what
/// `launch` says.
pub async fn create_grant(
    client: &Client,
    key: &KeyId,
    host: &HostId,
    volume: &VolumeId,
    launch: Option<LaunchPolicy>,
) -> Result<Grant, CallError> {
    grant(client, key, Identity::Host(host.clone()), volume, launch).await
}

/// Lets the key of one volume be opened once for the caller's own importer.
pub async fn create_import_grant(
    client: &Client,
    key: &KeyId,
    importer: &Name,
    volume: &VolumeId,
) -> Result<Grant, CallError> {
    grant(client, key, Identity::Importer(importer.clone()), volume, None).await
}

async fn grant(
    client: &Client,
    key: &KeyId,
    grantee: Identity,
    volume: &VolumeId,
    launch: Option<LaunchPolicy>,
) -> Result<Grant, CallError> {
    let imports = matches!(grantee, Identity::Importer(_));
    let request = CreateGrant {
        key_id: key.clone(),
        grantee,
        operations: vec![if imports { GrantOperation::Import } else { GrantOperation::Decrypt }],
        launch,
        constraint: EncryptionContext::of_volume(volume),
        instance: None,
        seconds: ATTACH,
    };
    client.post(CREATE_GRANT, &request).await
}

/// A nonce with which a host can be asked for evidence: for the control plane.
pub async fn attestation_nonce(client: &Client, host: &HostId) -> Result<[u8; NONCE], CallError> {
    let nonce: Nonce = client.post(ATTESTATION_NONCE, &AttestationNonce { host: host.clone() }).await?;
    nonce.nonce.0.try_into().map_err(|_| CallError::Malformed(client.server().clone()))
}

/// Ends a grant of a key of the caller's.
pub async fn retire_grant(client: &Client, key: &KeyId, grant: &GrantId) -> Result<(), CallError> {
    let request = RetireGrant::ById { key_id: key.clone(), grant_id: grant.clone() };
    client.post::<_, GrantRetired>(RETIRE_GRANT, &request).await.map(drop)
}

/// Has a volume key sealed to a card: for the control plane with a grant's token, or for an importer.
pub async fn decrypt_for(
    client: &Client,
    ciphertext: &[u8],
    volume: &VolumeId,
    grant_token: &str,
    card_key_certificate: &[u8],
    recipient: Recipient,
) -> Result<Vec<u8>, CallError> {
    let request = DecryptForRecipient {
        ciphertext_blob: Bytes(ciphertext.to_vec()),
        encryption_context: EncryptionContext::of_volume(volume),
        grant_token: GrantToken(grant_token.to_owned()),
        card_key_certificate: Bytes(card_key_certificate.to_vec()),
        recipient,
    };
    Ok(client.post::<_, SealedKey>(DECRYPT, &request).await?.sealed_key.0)
}
