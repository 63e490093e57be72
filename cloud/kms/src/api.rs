//! The calls over HTTP, each in the log with who, what and how it ended; never with a key or a token.

use crate::{
    Kms, KmsError,
    client::{
        ATTESTATION_NONCE, AttestationNonce, CREATE_GRANT, CREATE_KEY, CreateGrant, CreateKey, DECRYPT,
        DESCRIBE_KEY, DataKey, DecryptForRecipient, DescribeKey, GENERATE_DATA_KEY,
        GenerateDataKeyWithoutPlaintext, Grant, GrantRetired, KeyDescription, Nonce, RETIRE_GRANT,
        RetireGrant, SealedKey,
    },
    key_of,
};
use axum::{
    Router,
    extract::State,
    routing::{MethodRouter, post},
};
use ids::Identity;
use serde::{Serialize, de::DeserializeOwned};
use service::{Error, Json, Peer};
use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

/// The service's calls.
pub fn router(kms: Kms) -> Router {
    Router::new()
        .route(CREATE_KEY, call("CreateKey", Kms::create_key))
        .route(DESCRIBE_KEY, call("DescribeKey", Kms::describe_key))
        .route(GENERATE_DATA_KEY, call("GenerateDataKeyWithoutPlaintext", Kms::generate_data_key))
        .route(CREATE_GRANT, call("CreateGrant", Kms::create_grant))
        .route(RETIRE_GRANT, call("RetireGrant", Kms::retire_grant))
        .route(ATTESTATION_NONCE, call("AttestationNonce", Kms::attestation_nonce))
        .route(DECRYPT, call("DecryptForRecipient", Kms::decrypt_for_recipient))
        .with_state(Arc::new(kms))
}

/// What of a message goes into the log.
trait Loggable {
    fn about(&self) -> String;
}

fn call<Q, R>(
    name: &'static str,
    run: fn(&Kms, &Identity, Q, u64) -> Result<R, KmsError>,
) -> MethodRouter<Arc<Kms>>
where
    Q: Loggable + DeserializeOwned + Send + 'static,
    R: Loggable + Serialize + Send + 'static,
{
    post(move |State(kms): State<Arc<Kms>>, Peer(caller): Peer, Json(request): Json<Q>| async move {
        // The store waits for the disk.
        let work = move || handle(name, run, &kms, &caller, request);
        tokio::task::spawn_blocking(work).await.map_err(Error::internal)?.map(Json)
    })
}

fn handle<Q: Loggable, R: Loggable>(
    name: &'static str,
    run: fn(&Kms, &Identity, Q, u64) -> Result<R, KmsError>,
    kms: &Kms,
    caller: &Identity,
    request: Q,
) -> Result<R, Error> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(Error::internal)?.as_secs();
    let request_is = request.about();
    match run(kms, caller, request, now) {
        Ok(answer) => {
            tracing::info!(%caller, call = name, request = request_is, answer = answer.about(), "done");
            Ok(answer)
        }
        Err(error) => {
            tracing::warn!(%caller, call = name, request = request_is, code = error.code(), "refused");
            Err(match error {
                KmsError::Internal(detail) => Error::internal(detail),
                refusal => Error::new(refusal.status(), refusal.code(), refusal.to_string()),
            })
        }
    }
}

macro_rules! loggable {
    ($($name:ident($message:ident) => $about:expr;)*) => {
        $(impl Loggable for $name {
            fn about(&self) -> String {
                let $message = self;
                $about
            }
        })*
    };
}

loggable! {
    CreateKey(_m) => String::new();
    DescribeKey(m) => m.key_id.to_string();
    KeyDescription(m) => m.key_id.to_string();
    GenerateDataKeyWithoutPlaintext(m) => format!("{} {} bytes for {}", m.key_id, m.number_of_bytes, m.encryption_context);
    DataKey(m) => m.key_id.to_string();
    CreateGrant(m) => format!("{} to {} for {}", m.key_id, m.grantee, m.constraint);
    Grant(m) => m.grant_id.to_string();
    RetireGrant(m) => match m {
        Self::ById { key_id, grant_id } => format!("{key_id} {grant_id}"),
        Self::ByToken { grant_token } => public_part(grant_token),
    };
    GrantRetired(m) => m.grant_id.to_string();
    AttestationNonce(m) => m.host.to_string();
    Nonce(_m) => String::new();
    DecryptForRecipient(m) => {
        let key = key_of(&m.ciphertext_blob.0).map(|key| key.to_string()).unwrap_or_default();
        format!("{key} by {} for {}", public_part(&m.grant_token), m.encryption_context)
    };
    SealedKey(m) => format!("{} to {}", m.key_id, m.host);
}

/// Key and grant of a grant token, without its secret; nothing of what is no grant token.
fn public_part(token: &str) -> String {
    let mut parts = token.splitn(3, '.');
    let key = parts.next().and_then(|text| text.parse::<ids::KeyId>().ok());
    let grant = parts.next().and_then(|text| text.parse::<ids::GrantId>().ok());
    match (key, grant) {
        (Some(key), Some(grant)) => format!("{key} {grant}"),
        _ => "no grant token".to_owned(),
    }
}
