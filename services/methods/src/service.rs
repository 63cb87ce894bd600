//! The gRPC face of methods, and the two waits of a call: for the device, and for its answer.

use std::time::Duration;

use dunlin_model::{ErrorCode, HubError, Identity};
use dunlin_proto::status::{from_status, to_status};
use dunlin_proto::v1;
use dunlin_proto::v1::methods_server::Methods;
use dunlin_proto::v1::registry_client::RegistryClient;
use dunlin_runtime::{DeviceLinks, Invoked, MeshChannel};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::Config;
use crate::call::{self, Call};
use crate::metrics::Metrics;

/// Between two looks for a device that is waited for: each time twice as long, up to the longest.
const LOOK: Duration = Duration::from_millis(250);
const LOOK_LONGEST: Duration = Duration::from_secs(1);

/// Calls that wait for their device at a time: each looks for it again and again.
const WAITING: usize = 10_000;

/// How much earlier than the caller gives up he is told: Node's HTTP timeout is exactly the sum of
/// the two timeouts, and the answer has a way to go.
const AHEAD: Duration = Duration::from_millis(500);

pub(crate) struct Service {
    config: Config,
    registry: RegistryClient<MeshChannel>,
    links: DeviceLinks,
    /// Places of calls that wait for their device.
    waiting: Semaphore,
    metrics: Metrics,
}

#[tonic::async_trait]
impl Methods for Service {
    /// Nothing of it is spawned: dropped with its caller, it cancels the call at the gateway.
    async fn invoke_method(
        &self,
        request: Request<v1::InvokeMethodRequest>,
    ) -> Result<Response<v1::InvokeMethodResponse>, Status> {
        let arrival = Instant::now();
        let invoke =
            async { self.invoke(Call::read(request.into_inner(), &self.config)?, arrival).await };
        let outcome = invoke.await;
        self.metrics.called(&outcome, arrival.elapsed());
        outcome.map(Response::new).map_err(to_status)
    }
}

impl Service {
    pub(crate) fn new(
        config: Config,
        registry: RegistryClient<MeshChannel>,
        links: DeviceLinks,
        metrics: Metrics,
    ) -> Self {
        Self { config, registry, links, waiting: Semaphore::new(WAITING), metrics }
    }

    async fn invoke(
        &self,
        call: Call,
        arrival: Instant,
    ) -> Result<v1::InvokeMethodResponse, HubError> {
        let Call { id, method, payload, response, connect } = call;
        let connected_until = arrival + connect;
        let answered_until = connected_until + response - AHEAD;
        let (mut known, mut place, mut look) = (false, None, LOOK);
        loop {
            let left = answered_until.saturating_duration_since(Instant::now());
            let invoked = self.links.invoke(&id, &method, payload.as_bytes(), response.min(left));
            match invoked.await? {
                Invoked::Answered { status, payload } => {
                    return call::answer(status, payload, &self.config);
                }
                Invoked::Unanswered => return Err(unanswered()),
                Invoked::NotConnected | Invoked::NotSubscribed => {}
            }
            // Nobody waits for a device that does not exist; one that is there needs no asking.
            if !known {
                self.must_exist(&id).await?;
                known = true;
            }
            let now = Instant::now();
            if now >= connected_until {
                return Err(not_online());
            }
            if place.is_none() {
                place = Some(self.waiting.try_acquire().map_err(|_| too_many())?);
            }
            tokio::time::sleep_until(connected_until.min(now + look)).await;
            look = LOOK_LONGEST.min(look * 2);
        }
    }

    async fn must_exist(&self, id: &Identity) -> Result<(), HubError> {
        let request = v1::GetIdentityRequest { id: id.as_str().to_owned() };
        let found = self.registry.clone().check_identity(request).await;
        found.map(drop).map_err(|status| from_status(&status))
    }
}

// The texts of IoT Hub, by which some clients tell them.

fn unanswered() -> HubError {
    let message = "Timed out waiting for the response from device.";
    HubError::new(ErrorCode::GatewayTimeout, message)
}

fn not_online() -> HubError {
    HubError::new(ErrorCode::DeviceNotOnline, "Timed out waiting for device to connect.")
}

fn too_many() -> HubError {
    let message = format!(
        "{WAITING} calls wait for their devices already: try again later, or with a \
         connectTimeoutInSeconds of 0"
    );
    HubError::new(ErrorCode::ServerBusy, message)
}
