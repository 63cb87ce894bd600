//! Health and metrics of every process.

use dunlin::test_hub::TestHub;

scenario!(every_process_tells_of_itself);
async fn every_process_tells_of_itself(hub: &TestHub) {
    let http = dunlin::client::http().build().expect("a client");
    for address in hub.admin_addrs() {
        let get = async |path: &str| {
            let response = http.get(format!("http://{address}{path}")).send().await;
            let response = response.expect("answered");
            (response.status().as_u16(), response.text().await.expect("text"))
        };
        assert_eq!(get("/livez").await, (200, "ok\n".to_owned()));
        let (status, roles) = get("/readyz").await;
        assert!(status == 200 && roles.lines().all(|line| line.ends_with(" ready")), "{roles}");
        let (_, metrics) = get("/metrics").await;
        for name in ["process_resident_memory_bytes", "process_cpu_seconds_total", "dunlin_build"] {
            assert!(metrics.contains(name), "{name}: {metrics}");
        }
        assert_eq!(get("/nothing").await.0, 404);
    }
}

scenario!(two_gateways_are_two_front_doors_of_one_hub, two_gateways);
async fn two_gateways_are_two_front_doors_of_one_hub(hub: &TestHub) {
    hub.create_device("d").await;
    assert_eq!(hub.https_addrs().len(), 2);
    for address in hub.https_addrs() {
        let ca = Some(hub.ca_pem().as_bytes());
        let mut login = hub.owner_connection_string().clone();
        login.host = format!("{}:{}", hub.hostname(), address.port());
        let client = dunlin::client::Client::new(login, ca, Some(address)).expect("a client");
        assert_eq!(client.device_get("d").await.expect("found")["deviceId"], "d");
    }
}
