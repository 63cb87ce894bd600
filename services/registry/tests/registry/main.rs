//! The registry over its gRPC face, on the embedded store.

use std::sync::Arc;

use dunlin_auth::{Key, sas};
use dunlin_model::twin::Limits;
use dunlin_model::{ErrorCode, HubError};
use dunlin_proto::status::from_status;
use dunlin_proto::v1;
use dunlin_proto::v1::registry_client::RegistryClient;
use dunlin_registry::{BuildError, Config, Context, MasterKey};
use dunlin_runtime::{DeviceLinks, Mesh, MeshChannel, Role, mesh};
use dunlin_storage::device_store::SqliteDeviceStore;
use dunlin_storage::presence::MemoryPresence;
use dunlin_storage::sqlite::DataFolder;
use tempfile::TempDir;
use tokio::runtime::Handle;

mod access;
mod certificates;
mod identities;
mod policies;
mod revocation;

const HOST: &str = "hub.localhost";

/// A registry on a folder of its own.
struct Hub {
    client: RegistryClient<MeshChannel>,
    folder: TempDir,
}

impl Hub {
    async fn start() -> Self {
        let folder = TempDir::new().expect("a folder");
        let client = open(&folder, [7; 32]).await.expect("a registry");
        Self { client, folder }
    }

    async fn create(&mut self, identity: v1::Identity) -> Result<v1::Identity, HubError> {
        code(self.client.create_identity(identity).await)
    }

    async fn get(&mut self, id: &str) -> Result<v1::Identity, HubError> {
        code(self.client.get_identity(v1::GetIdentityRequest { id: id.to_owned() }).await)
    }

    async fn replace(
        &mut self,
        identity: v1::Identity,
        if_match: Option<&str>,
    ) -> Result<v1::Identity, HubError> {
        let if_match = if_match.map(str::to_owned);
        let request = v1::ReplaceIdentityRequest { identity: Some(identity), if_match };
        code(self.client.replace_identity(request).await)
    }

    async fn delete(&mut self, id: &str, if_match: Option<&str>) -> Result<(), HubError> {
        let if_match = if_match.map(str::to_owned);
        let request = v1::DeleteIdentityRequest { id: id.to_owned(), if_match };
        code(self.client.delete_identity(request).await).map(|_| ())
    }

    async fn authenticate(
        &mut self,
        id: &str,
        token: &str,
    ) -> Result<v1::AuthenticateResponse, HubError> {
        let request = v1::AuthenticateRequest {
            identity: id.to_owned(),
            sas_token: token.to_owned(),
            certificates: Vec::new(),
        };
        code(self.client.authenticate(request).await)
    }

    async fn policy_key(&mut self, name: &str) -> Key {
        let policy = self.client.get_policy(v1::GetPolicyRequest { name: name.to_owned() }).await;
        Key::from_base64(&policy.expect("a policy").into_inner().primary_key).expect("a key")
    }
}

async fn open(folder: &TempDir, key: [u8; 32]) -> Result<RegistryClient<MeshChannel>, BuildError> {
    let data = DataFolder::open(folder.path()).expect("a data folder");
    serve(Arc::new(SqliteDeviceStore::new(data.sqlite())), key).await
}

async fn serve(
    store: Arc<SqliteDeviceStore>,
    key: [u8; 32],
) -> Result<RegistryClient<MeshChannel>, BuildError> {
    let config =
        Config { hostnames: vec!["localhost".into(), HOST.into()], twins: Limits::default() };
    let mesh = Mesh::new(mesh::Config::default(), &[Role::Registry], Handle::current());
    let presence = Arc::new(MemoryPresence::new(1));
    let links = DeviceLinks::new(mesh.clone(), presence.clone());
    let context = Context { config, store, links, presence, master_key: MasterKey::new(&key) };
    let component = dunlin_registry::build(context).await?;
    mesh.attach(component.routes);
    Ok(RegistryClient::new(mesh.channel(Role::Registry).expect("runs here")))
}

fn code<T>(answer: Result<tonic::Response<T>, tonic::Status>) -> Result<T, HubError> {
    answer.map(tonic::Response::into_inner).map_err(|status| from_status(&status))
}

fn device(id: &str) -> v1::Identity {
    v1::Identity { id: id.to_owned(), ..v1::Identity::default() }
}

fn keys(identity: &v1::Identity) -> v1::KeyPair {
    match identity.authentication.clone().and_then(|authentication| authentication.kind) {
        Some(v1::authentication::Kind::Sas(keys)) => keys,
        other => panic!("not SAS: {other:?}"),
    }
}

fn with_keys(primary: &str, secondary: &str) -> Option<v1::Authentication> {
    let pair = v1::KeyPair { primary: primary.to_owned(), secondary: secondary.to_owned() };
    let kind = Some(v1::authentication::Kind::Sas(pair));
    Some(v1::Authentication { kind, renew_keys: false })
}

/// A token of the identity `id` by its primary key, an hour long.
fn own_token(identity: &v1::Identity) -> String {
    let key = Key::from_base64(&keys(identity).primary).expect("a key");
    sas::sign(&resource(&identity.id), None, &key, in_an_hour())
}

fn resource(id: &str) -> String {
    format!("{HOST}/devices/{}", id.replace('/', "/modules/"))
}

fn in_an_hour() -> u64 {
    dunlin_runtime::clock::unix_seconds() + 3_600
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, HubError>, want: ErrorCode) -> String {
    let error = result.expect_err("must be refused");
    assert_eq!(error.code, want, "{error}");
    error.message
}
