//! The gRPC face of the registry.

use dunlin_auth::{Key, Permissions, Policy};
use dunlin_model::twin::{Limits, Update};
use dunlin_model::{
    Authentication, DeviceIdentity, ErrorCode, HubError, Identity, KeyPair, Status,
};
use dunlin_proto::status::to_status;
use dunlin_proto::v1;
use dunlin_storage::device_store::{IfMatch, Statistics};
use tonic::{Request, Response};
use tracing::debug;

use crate::access::Access;
use crate::authorities::Entry;
use crate::bulk::{Mode, Row};
use crate::identities::Written;
use crate::policies::{self, Change, Renew};
use crate::{connections, store_failed};

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
            let v1::AuthenticateRequest { sas_token, certificates, .. } = request;
            let decision = self.access.authenticate(&id, &sas_token, certificates).await;
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
        let v1::AuthorizeRequest { sas_token, path, .. } = &request;
        let authorize = async {
            let wanted = permissions(request.permissions)?;
            match &request.query_token {
                Some(token) => self.access.authorize_query(token, path, wanted).await,
                None => self.access.authorize(sas_token, path, wanted).await,
            }
        };
        answer(authorize.await.map(|policy| v1::AuthorizeResponse { policy: policy.name }))
    }

    async fn issue_query_token(
        &self,
        request: Request<v1::IssueQueryTokenRequest>,
    ) -> Answer<v1::QueryToken> {
        let v1::IssueQueryTokenRequest { sas_token, path, permissions: bits } =
            request.into_inner();
        let issue =
            async { self.access.issue_query_token(&sas_token, &path, permissions(bits)?).await };
        answer(issue.await.map(|(token, expires)| v1::QueryToken { token, expires }))
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

    async fn check_identity(
        &self,
        request: Request<v1::GetIdentityRequest>,
    ) -> Answer<v1::CheckIdentityResponse> {
        let check = async {
            self.access.identities.stored(&Identity::parse(&request.into_inner().id)?).await
        };
        answer(check.await.map(|_| v1::CheckIdentityResponse {}))
    }

    async fn list_devices(
        &self,
        request: Request<v1::ListDevicesRequest>,
    ) -> Answer<v1::DevicePage> {
        let v1::ListDevicesRequest { top, after } = request.into_inner();
        let top = usize::try_from(top).unwrap_or(0);
        let page = self.access.identities.list_devices(&after, top).await;
        answer(page.map(|(devices, more)| v1::DevicePage {
            devices: devices.into_iter().map(Into::into).collect(),
            more,
        }))
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

    async fn write_identities(
        &self,
        request: Request<v1::WriteIdentitiesRequest>,
    ) -> Answer<v1::WriteIdentitiesResponse> {
        let limits = &self.access.identities.twins;
        let rows = request.into_inner().rows.into_iter().map(|wire| row(wire, limits)).collect();
        let results = self.access.identities.write_rows(rows).await;
        answer(results.map(|results| v1::WriteIdentitiesResponse {
            results: results.into_iter().map(Into::into).collect(),
        }))
    }

    async fn regenerate_keys(
        &self,
        request: Request<v1::RegenerateKeysRequest>,
    ) -> Answer<v1::RegenerateKeysResponse> {
        let v1::RegenerateKeysRequest { ids, primary, secondary } = request.into_inner();
        let results = self.access.identities.regenerate(ids, primary, secondary).await;
        answer(results.map(|results| v1::RegenerateKeysResponse {
            results: results.into_iter().map(regenerated).collect(),
        }))
    }

    async fn get_statistics(&self, _: Request<v1::GetStatisticsRequest>) -> Answer<v1::Statistics> {
        let counted = self.access.identities.store.device_statistics().await.map_err(store_failed);
        answer(counted.map(|Statistics { devices, disabled, connected }| v1::Statistics {
            devices,
            disabled,
            connected,
        }))
    }

    async fn record_connections(
        &self,
        request: Request<v1::RecordConnectionsRequest>,
    ) -> Answer<v1::RecordConnectionsResponse> {
        let store = &*self.access.identities.store;
        let recorded = connections::record(store, request.into_inner()).await;
        answer(recorded)
    }

    async fn get_policy(&self, request: Request<v1::GetPolicyRequest>) -> Answer<v1::Policy> {
        let name = request.into_inner().name;
        let get = async {
            self.access.policies.get(&name).await?.ok_or_else(|| policies::not_found(&name))
        };
        answer(get.await.map(|policy| shown(&policy)))
    }

    async fn list_policies(&self, _: Request<v1::ListPoliciesRequest>) -> Answer<v1::PolicyList> {
        let policies = self.access.policies.all().await;
        answer(
            policies
                .map(|policies| v1::PolicyList { policies: policies.iter().map(shown).collect() }),
        )
    }

    async fn create_policy(&self, request: Request<v1::Policy>) -> Answer<v1::Policy> {
        let create = async {
            let v1::Policy { name, permissions: bits, .. } = request.get_ref();
            let [primary, secondary] =
                keys(request.get_ref())?.unwrap_or_else(|| [Key::generate(), Key::generate()]);
            let permissions = permissions(*bits)?;
            let new = Policy { name: name.clone(), permissions, primary, secondary };
            self.access.policies.create(new).await
        };
        answer(create.await.map(|policy| shown(&policy)))
    }

    async fn replace_policy(
        &self,
        request: Request<v1::ReplacePolicyRequest>,
    ) -> Answer<v1::Policy> {
        let v1::ReplacePolicyRequest { policy, if_match: etag } = request.into_inner();
        let replace = async {
            let policy = policy.ok_or_else(|| invalid("policy is missing"))?;
            let change = Change {
                permissions: Some(permissions(policy.permissions)?)
                    .filter(|given| *given != Permissions::NONE),
                keys: keys(&policy)?,
            };
            self.access.policies.replace(&policy.name, change, &if_match(etag)).await
        };
        answer(replace.await.map(|policy| shown(&policy)))
    }

    async fn renew_policy_key(
        &self,
        request: Request<v1::RenewPolicyKeyRequest>,
    ) -> Answer<v1::Policy> {
        let request = request.into_inner();
        let which = match request.key() {
            v1::PolicyKey::Primary => Ok(Renew::Primary),
            v1::PolicyKey::Secondary => Ok(Renew::Secondary),
            v1::PolicyKey::Swap => Ok(Renew::Swap),
            v1::PolicyKey::Unspecified => Err(invalid("key is missing")),
        };
        let renew = async { self.access.policies.renew(&request.name, which?).await };
        answer(renew.await.map(|policy| shown(&policy)))
    }

    async fn delete_policy(
        &self,
        request: Request<v1::DeletePolicyRequest>,
    ) -> Answer<v1::DeletePolicyResponse> {
        let v1::DeletePolicyRequest { name, if_match: etag } = request.into_inner();
        let deleted = self.access.policies.delete(&name, &if_match(etag)).await;
        answer(deleted.map(|()| v1::DeletePolicyResponse {}))
    }

    async fn list_authorities(
        &self,
        _: Request<v1::ListAuthoritiesRequest>,
    ) -> Answer<v1::AuthorityList> {
        let all = self.access.authorities.all().await;
        answer(
            all.map(|all| v1::AuthorityList { authorities: all.iter().map(authority).collect() }),
        )
    }

    async fn get_authority(
        &self,
        request: Request<v1::GetAuthorityRequest>,
    ) -> Answer<v1::Authority> {
        let found = self.access.authorities.get(&request.into_inner().name).await;
        answer(found.map(|entry| authority(&entry)))
    }

    async fn add_authority(
        &self,
        request: Request<v1::AddAuthorityRequest>,
    ) -> Answer<v1::Authority> {
        let v1::AddAuthorityRequest { name, pem } = request.into_inner();
        let added = self.access.authorities.add(&name, &pem).await;
        answer(added.map(|entry| authority(&entry)))
    }

    async fn generate_verification_code(
        &self,
        request: Request<v1::GenerateVerificationCodeRequest>,
    ) -> Answer<v1::Authority> {
        let v1::GenerateVerificationCodeRequest { name, if_match: etag } = request.into_inner();
        let asked = self.access.authorities.generate_code(&name, &if_match(etag)).await;
        answer(asked.map(|entry| authority(&entry)))
    }

    async fn verify_authority(
        &self,
        request: Request<v1::VerifyAuthorityRequest>,
    ) -> Answer<v1::Authority> {
        let v1::VerifyAuthorityRequest { name, pem, if_match: etag } = request.into_inner();
        let verified = self.access.authorities.verify(&name, &pem, &if_match(etag)).await;
        answer(verified.map(|entry| authority(&entry)))
    }

    async fn delete_authority(
        &self,
        request: Request<v1::DeleteAuthorityRequest>,
    ) -> Answer<v1::DeleteAuthorityResponse> {
        let v1::DeleteAuthorityRequest { name, if_match: etag } = request.into_inner();
        let deleted = self.access.authorities.delete(&name, &if_match(etag)).await;
        answer(deleted.map(|()| v1::DeleteAuthorityResponse {}))
    }
}

fn permissions(bits: u32) -> Result<Permissions, HubError> {
    Permissions::from_bits(bits).ok_or_else(|| invalid("unknown permission bits"))
}

fn shown(policy: &Policy) -> v1::Policy {
    v1::Policy {
        name: policy.name.clone(),
        permissions: policy.permissions.bits(),
        primary_key: policy.primary.to_base64(),
        secondary_key: policy.secondary.to_base64(),
        etag: policies::etag(policy),
    }
}

fn authority(entry: &Entry) -> v1::Authority {
    v1::Authority {
        name: entry.name.clone(),
        certificate: entry.authority.der().to_vec(),
        subject: entry.authority.subject().to_owned(),
        thumbprint: entry.authority.thumbprint(),
        expires: entry.authority.expires(),
        verified: entry.verified,
        verification_code: entry.code.clone(),
        created: entry.created,
        updated: entry.updated,
        etag: entry.etag(),
    }
}

/// Keys follow the rule of device keys: both or none.
fn keys(wire: &v1::Policy) -> Result<Option<[Key; 2]>, HubError> {
    match (wire.primary_key.as_str(), wire.secondary_key.as_str()) {
        ("", "") => Ok(None),
        ("", _) | (_, "") => Err(invalid("give both keys or none")),
        (primary, secondary) => {
            Ok(Some([Key::from_base64(primary)?, Key::from_base64(secondary)?]))
        }
    }
}

fn row(wire: v1::IdentityRow, limits: &Limits) -> Result<Row, HubError> {
    let mode = match wire.mode() {
        v1::RowMode::Create => Mode::Create,
        v1::RowMode::Update => Mode::Update,
        v1::RowMode::Delete => Mode::Delete,
        v1::RowMode::CreateOrUpdate => Mode::CreateOrUpdate,
        v1::RowMode::Unspecified => return Err(invalid("the mode of a row is missing")),
    };
    let identity = wire.identity.ok_or_else(|| invalid("the identity of a row is missing"))?;
    let [tags, desired] =
        [&wire.tags, &wire.desired].map(|text| text.as_deref().map(str::as_bytes));
    let twin = Update::read(None, false, tags, desired, limits)?;
    let twin = Some(twin).filter(|twin| !twin.is_empty());
    let written = Written { twin, ..written(identity)? };
    Ok(Row { written, mode, if_match: if_match(wire.if_match) })
}

fn regenerated(result: Result<KeyPair, HubError>) -> v1::RegeneratedKeys {
    let (keys, error) = match result {
        Ok(keys) => (Some(keys.into()), None),
        Err(error) => (None, Some(error)),
    };
    v1::RegeneratedKeys { result: Some(error.into()), keys }
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
        renew_keys: wire.authentication.as_ref().is_some_and(|given| given.renew_keys),
        authentication: wire.authentication.map(Authentication::try_from).transpose()?,
        iot_edge: wire.iot_edge,
        device_scope: wire.device_scope,
        parent_scopes: wire.parent_scopes.map(|list| list.scopes),
        managed_by: wire.managed_by,
        twin: None,
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
