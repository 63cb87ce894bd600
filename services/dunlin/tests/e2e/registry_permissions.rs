//! What each route wants of its caller, as IoT Hub documents it: every row by every default policy,
//! and by those who have no business here. Calls that are let in change nothing: what they name does
//! not exist, or they say nothing.

use dunlin::test_hub::TestHub;
use dunlin_api::TABLE;
use dunlin_auth::{Key, Permissions, sas};
use dunlin_runtime::clock::unix_seconds;
use reqwest::RequestBuilder;

use crate::registry::{refused, reqwest_without_token, send};

fn sign(resource: &str, policy: Option<&str>, key: &Key) -> String {
    sas::sign(resource, policy, key, unix_seconds() + 60)
}

/// Written out a second time, from IoT Hub's documentation of its endpoints: the table by which the
/// API builds its routes cannot vouch for itself.
const DOCUMENTED: &[(&str, &str)] = &[
    ("RegistryRead", "GET /devices"),
    ("RegistryRead", "GET /devices/"),
    ("RegistryRead", "GET /devices/{id}"),
    ("RegistryRead", "GET /devices/{id}/modules"),
    ("RegistryRead", "GET /devices/{id}/modules/"),
    ("RegistryRead", "GET /devices/{id}/modules/{module}"),
    ("RegistryRead", "GET /statistics/devices"),
    ("RegistryRead", "GET /statistics/service"),
    ("RegistryWrite", "PUT /devices/{id}"),
    ("RegistryWrite", "DELETE /devices/{id}"),
    ("RegistryWrite", "PUT /devices/{id}/modules/{module}"),
    ("RegistryWrite", "DELETE /devices/{id}/modules/{module}"),
    ("RegistryWrite", "POST /devices"),
    ("RegistryWrite", "POST /devices/"),
    ("RegistryWrite", "POST /devices/keys/regenerate"),
    ("ServiceConnect", "GET /twins/{id}"),
    ("ServiceConnect", "PATCH /twins/{id}"),
    ("ServiceConnect", "PUT /twins/{id}"),
    ("ServiceConnect", "GET /twins/{id}/modules/{module}"),
    ("ServiceConnect", "PATCH /twins/{id}/modules/{module}"),
    ("ServiceConnect", "PUT /twins/{id}/modules/{module}"),
    ("ServiceConnect", "POST /twins/{id}/methods"),
    ("ServiceConnect", "POST /twins/{id}/modules/{module}/methods"),
    ("ServiceConnect", "DELETE /devices/{id}/commands"),
    ("ServiceConnect", "GET /messages/serviceBound/feedback"),
    ("ServiceConnect", "DELETE /messages/serviceBound/feedback/{token}"),
    ("ServiceConnect", "POST /messages/serviceBound/feedback/{token}/abandon"),
    // The same in the other spelling of SDKs.
    ("ServiceConnect", "GET /messages/servicebound/feedback"),
    ("ServiceConnect", "DELETE /messages/servicebound/feedback/{token}"),
    ("ServiceConnect", "POST /messages/servicebound/feedback/{token}/abandon"),
    // `messages/devicebound` of IoT Hub, which is AMQP there.
    ("ServiceConnect", "POST /dunlin/v1/devices/{id}/messages/devicebound"),
    // `messages/events` of IoT Hub.
    ("ServiceConnect", "GET /dunlin/v1/events"),
    ("ServiceConnect", "POST /dunlin/v1/events/commit"),
    ("ServiceConnect", "POST /dunlin/v1/events/token"),
    // Dunlin's own: in IoT Hub this is the owner's, outside of the hub.
    (EVERYTHING, "GET /dunlin/v1/policies"),
    (EVERYTHING, "POST /dunlin/v1/policies"),
    (EVERYTHING, "GET /dunlin/v1/policies/{name}"),
    (EVERYTHING, "PUT /dunlin/v1/policies/{name}"),
    (EVERYTHING, "DELETE /dunlin/v1/policies/{name}"),
    (EVERYTHING, "POST /dunlin/v1/policies/{name}/renew-key"),
    (EVERYTHING, "GET /dunlin/v1/certificates"),
    (EVERYTHING, "GET /dunlin/v1/certificates/{name}"),
    (EVERYTHING, "PUT /dunlin/v1/certificates/{name}"),
    (EVERYTHING, "DELETE /dunlin/v1/certificates/{name}"),
    (EVERYTHING, "POST /dunlin/v1/certificates/{name}/generate-verification-code"),
    (EVERYTHING, "POST /dunlin/v1/certificates/{name}/verify"),
];
const EVERYTHING: &str = "RegistryRead, RegistryWrite, ServiceConnect, DeviceConnect";

/// Who may call what: of each default policy the permissions that its calls are let in by.
const LET_IN: [(&str, &[&str]); 5] = [
    ("iothubowner", &["RegistryRead", "RegistryWrite", "ServiceConnect", EVERYTHING]),
    ("service", &["ServiceConnect"]),
    ("device", &[]),
    ("registryRead", &["RegistryRead"]),
    ("registryReadWrite", &["RegistryRead", "RegistryWrite"]),
];

#[test]
fn the_routes_are_the_documented_ones() {
    let mut wanted: Vec<_> = DOCUMENTED
        .iter()
        .map(|(permissions, route)| {
            (*route, Permissions::parse(permissions).expect("permissions").bits())
        })
        .collect();
    let routes =
        TABLE.iter().map(|(method, path, wanted)| (format!("{method} {path}"), wanted.bits()));
    let mut routes: Vec<_> = routes.collect();
    wanted.sort_unstable();
    routes.sort_unstable();
    let routes: Vec<_> = routes.iter().map(|(route, bits)| (route.as_str(), *bits)).collect();
    assert_eq!(routes, wanted);
}

scenario!(every_route_wants_its_permission);
async fn every_route_wants_its_permission(hub: &TestHub) {
    let own_key = hub.create_device("other").await;
    let host = hub.hostname();
    let policies = hub.client().policy_list().await.expect("listed");
    let policies: Vec<_> = policies
        .as_array()
        .expect("a list")
        .iter()
        .map(|policy| {
            let text = |name: &str| policy[name].as_str().expect("text").to_owned();
            let key = Key::from_base64(&text("primaryKey")).expect("a key");
            let name = text("name");
            let (_, let_in) = LET_IN.iter().find(|row| row.0 == name).expect("a default policy");
            (name, key, *let_in)
        })
        .collect();
    assert_eq!(policies.len(), LET_IN.len());
    let owner = &hub.owner_connection_string().key;
    for (wanted, what) in DOCUMENTED {
        let what = what.replace(['{', '}'], "");
        let (method, path) = what.split_once(' ').expect("a method and a path");
        let call = |token: Option<&str>| -> RequestBuilder {
            let url = reqwest_without_token(hub, &format!("{path}?api-version=2021-04-12"));
            let (http, request) = url.build_split();
            let mut request = request.expect("a request");
            *request.method_mut() = method.parse().expect("a method");
            let call = RequestBuilder::from_parts(http, request);
            match token {
                Some(token) => call.header("authorization", token),
                None => call,
            }
        };
        for (name, key, let_in) in &policies {
            let token = sign(host, Some(name), key);
            if let_in.contains(wanted) {
                let answer = send(hub, call(Some(&token))).await;
                let status = answer.status().as_u16();
                assert!([200, 204, 400, 404, 412].contains(&status), "{name}: {what}: {status}");
            } else {
                let call = call(Some(&token));
                refused(hub, &format!("{name}: {what}"), call, "IotHubUnauthorizedAccess").await;
            }
        }
        let elsewhere = sign(&format!("{host}/devices/other"), Some("iothubowner"), owner);
        let device = sign(&format!("{host}/devices/other"), None, &own_key);
        for token in [None, Some(elsewhere.as_str()), Some(device.as_str()), Some("Bearer x")] {
            refused(hub, &what, call(token), "IotHubUnauthorized").await;
        }
    }
}
