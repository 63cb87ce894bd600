//! What time ends is ended once a second, so that feedback comes though nobody asks for the device,
//! and a connected device is told of what its lock's end has put back.

use std::time::Duration;

use dunlin_runtime::Shutdown;
use dunlin_runtime::component::RunError;
use tokio::time::{MissedTickBehavior, interval};
use tracing::error;

use crate::service::Service;

const EVERY: Duration = Duration::from_secs(1);

/// Devices in one transaction: bounds how long others wait for it.
const AT_ONCE: usize = 256;

pub(crate) async fn run(service: Service, shutdown: Shutdown) -> Result<(), RunError> {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            _ = ticks.tick() => sweep(&service).await,
        }
    }
}

async fn sweep(service: &Service) {
    loop {
        let swept = service.store().command_sweep(AT_ONCE, service.now(), service.rules()).await;
        match swept {
            Ok(swept) => {
                swept.returned.iter().for_each(|device| service.tells().tell(device));
                if swept.looked < AT_ONCE {
                    return;
                }
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                return error!(error, "expired C2D messages could not be ended");
            }
        }
    }
}
