//! The permission table, by which the API builds its routes: every row by every default policy, and by
//! those who have no business here. Calls that are let in change nothing: what they name does not
//! exist, or they say nothing.

use dunlin::test_hub::TestHub;
use dunlin_api::TABLE;
use dunlin_auth::{Key, Permissions, sas};
use dunlin_runtime::clock::unix_seconds;
use reqwest::RequestBuilder;

use crate::registry::{refused, reqwest_without_token, send};

fn sign(resource: &str, policy: Option<&str>, key: &Key) -> String {
    sas::sign(resource, policy, key, unix_seconds() + 60)
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
            let held = Permissions::parse(&text("permissions")).expect("permissions");
            (text("name"), key, held)
        })
        .collect();
    assert_eq!(policies.len(), 5);
    let owner = &hub.owner_connection_string().key;
    for (method, path, wanted) in TABLE {
        let path = path.replace(['{', '}'], "");
        let what = format!("{method} {path}");
        let call = |token: Option<&str>| -> RequestBuilder {
            let url = reqwest_without_token(hub, &format!("{path}?api-version=2021-04-12"));
            let (http, request) = url.build_split();
            let mut request = request.expect("a request");
            *request.method_mut() = method.clone();
            let call = RequestBuilder::from_parts(http, request);
            match token {
                Some(token) => call.header("authorization", token),
                None => call,
            }
        };
        for (name, key, held) in &policies {
            let token = sign(host, Some(name), key);
            if held.allow(*wanted) {
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
