//! The gRPC face of the registry.

use dunlin_auth::Permissions;
use dunlin_model::{Authentication, DeviceIdentity, ErrorCode, HubError, Identity, Status};
use dunlin_proto::status::to_status;
use dunlin_proto::v1;
use dunlin_storage::device_store::IfMatch;
use tonic::{Request, Response};
use tracing::debug;

use crate::access::Access;
use crate::identities::Written;

type Answer<T> = Result<Response<T>, tonic::Status>;

pub(crate) struct Service {
    pub access: Access,
}

fn answer<T>(result: Result<T, HubError>) -> Answer<T> {
    result.map(Response::new).map_err(to_status)
}

#[tonic::async_trait]
impl v1::registry_server::Registry for Service {
    async fn authenticate(
        &self,
        request: Request<v1::AuthenticateRequest>,
    ) -> Answer<v1::AuthenticateResponse> {
        let request = request.into_inner();
        let decide = async {
            let id = Identity::parse(&request.identity)?;
            let decision = self.access.authenticate(&id, &request.sas_token).await;
            if let Err(refused) = &decision {
                debug!(%id, error = %refused, "authentication refused");
            }
            decision
        };
        answer(decide.await)
    }

    async fn authorize(
        &self,
        request: Request<v1::AuthorizeRequest>,
    ) -> Answer<v1::AuthorizeResponse> {
        let request = request.into_inner();
        let policy = Permissions::from_bits(request.permissions)
            .ok_or_else(|| invalid("unknown permission bits"))
            .and_then(|wanted| self.access.authorize(&request.sas_token, &request.path, wanted));
        answer(policy.map(|policy| v1::AuthorizeResponse { policy }))
    }

    async fn create_identity(&self, request: Request<v1::Identity>) -> Answer<v1::Identity> {
        let create = async { self.access.identities.create(written(request.into_inner())?).await };
        answer(create.await.map(Into::into))
    }

    async fn get_identity(&self, request: Request<v1::GetIdentityRequest>) -> Answer<v1::Identity> {
        let get =
            async { self.access.identities.get(&Identity::parse(&request.into_inner().id)?).await };
        answer(get.await.map(Into::into))
    }

    async fn list_devices(
        &self,
        request: Request<v1::ListDevicesRequest>,
    ) -> Answer<v1::IdentityList> {
        let top = usize::try_from(request.into_inner().top).unwrap_or(0);
        answer(self.access.identities.list_devices(top).await.map(list))
    }

    async fn list_modules(
        &self,
        request: Request<v1::ListModulesRequest>,
    ) -> Answer<v1::IdentityList> {
        let get = async {
            let device = Identity::device(&request.into_inner().device_id)?;
            self.access.identities.list_modules(&device).await
        };
        answer(get.await.map(list))
    }

    async fn replace_identity(
        &self,
        request: Request<v1::ReplaceIdentityRequest>,
    ) -> Answer<v1::Identity> {
        let request = request.into_inner();
        let replace = async {
            let identity = request.identity.ok_or_else(|| invalid("identity is missing"))?;
            self.access.identities.replace(written(identity)?, if_match(request.if_match)).await
        };
        answer(replace.await.map(Into::into))
    }

    async fn delete_identity(
        &self,
        request: Request<v1::DeleteIdentityRequest>,
    ) -> Answer<v1::DeleteIdentityResponse> {
        let request = request.into_inner();
        let delete = async {
            let id = Identity::parse(&request.id)?;
            self.access.identities.delete(&id, if_match(request.if_match)).await
        };
        answer(delete.await.map(|()| v1::DeleteIdentityResponse {}))
    }

    async fn get_policy(&self, request: Request<v1::GetPolicyRequest>) -> Answer<v1::Policy> {
        let name = request.into_inner().name;
        let policy = self.access.policies.get(&name).ok_or_else(|| {
            HubError::new(ErrorCode::GenericNotFound, format!("there is no policy {name:?}"))
        });
        answer(policy.map(|policy| v1::Policy {
            name: policy.name.clone(),
            permissions: policy.permissions.bits(),
            primary_key: policy.primary.to_base64(),
            secondary_key: policy.secondary.to_base64(),
        }))
    }
}

/// What of an identity is the client's to write; the rest of the message is ignored.
fn written(wire: v1::Identity) -> Result<Written, HubError> {
    Ok(Written {
        status: match wire.status() {
            v1::Status::Unspecified => None,
            v1::Status::Enabled => Some(Status::Enabled),
            v1::Status::Disabled => Some(Status::Disabled),
        },
        id: Identity::parse(&wire.id)?,
        status_reason: wire.status_reason,
        authentication: wire.authentication.map(Authentication::try_from).transpose()?,
    })
}

fn list(identities: Vec<DeviceIdentity>) -> v1::IdentityList {
    v1::IdentityList { identities: identities.into_iter().map(Into::into).collect() }
}

fn if_match(etag: Option<String>) -> IfMatch {
    etag.map_or(IfMatch::Any, IfMatch::Etag)
}

fn invalid(message: &str) -> HubError {
    HubError::new(ErrorCode::ArgumentInvalid, message)
}
